"""A small part of the test bed of `examples/network_matrix.py`; docs/networks.md has the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

LEAST_SQNR_DB = 20.0


@pytest.fixture(autouse=True)
def _examples_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples")


@pytest.mark.parametrize(
    "name", ["UNet", "SSDHead", "SuperResolution", "KeywordSpotting", "MobileNetV3Small"]
)
def test_a_network_of_the_test_bed_passes(name: str) -> None:
    import network_matrix

    rows = network_matrix.measure(name)
    assert [(row["preset"], row["target"]) for row in rows] == [
        (preset, target) for preset in network_matrix.PRESETS for target in network_matrix.TARGETS
    ]
    for row in rows:
        assert "refused" not in row
        assert min(row["litert"], row["tensorflow"]) >= LEAST_SQNR_DB
        assert row["at_4_bits"] > 0.2  # an SSD head has four last layers, of 8 bits
        assert row["in_float"] == []
