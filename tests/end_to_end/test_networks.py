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


def test_the_page_keeps_what_was_not_measured_anew(tmp_path: Path) -> None:
    import network_matrix

    row = {"preset": "w4a8", "target": "int8_container", "bytes": 2048, "litert": 99.0}
    row |= {"tensorflow": 98.0, "at_4_bits": 0.5, "in_float": [], "layers_in_float": 0, "layers": 3}
    network_matrix.update_page([{"network": "UNet", **row}], tmp_path)
    network_matrix.update_page([{"network": "VGG16", **row}], tmp_path)
    network_matrix.update_page([{"network": "UNet", **row, "litert": 55.0}], tmp_path)
    lines = (tmp_path / "networks.md").read_text().splitlines()
    table = [line for line in lines if "int8_container" in line]
    assert table == [
        "| VGG16 | w4a8 | int8_container | 2 | 99.0 | 98.0 | 50% | 0 of 3 |",
        "| UNet | w4a8 | int8_container | 2 | 55.0 | 98.0 | 50% | 0 of 3 |",
    ]
