"""Exported integer files in LiteRT: what XNNPACK takes of them, and that TensorFlow agrees."""

from __future__ import annotations

import keras_networks
import numpy as np
import pytest
from exported_networks import exported
from runtimes import operators_outside_xnnpack, outputs

NETWORKS = sorted({**keras_networks.NETWORKS, **keras_networks.WIDER_NETWORKS})


@pytest.mark.parametrize("config", ["w8a8", "w4a4", "w4a4_signed4"])
@pytest.mark.parametrize("network", sorted(keras_networks.FULLY_IN_XNNPACK))
def test_xnnpack_takes_the_whole_file(network: str, config: str) -> None:
    made = exported(network, config)
    for io in ("float32", "int8"):
        assert operators_outside_xnnpack(made.file(io=io)) == []


def test_operators_outside_xnnpack_are_found() -> None:
    assert operators_outside_xnnpack(exported("pools", "w8a8").file()) == ["AVERAGE_POOL_2D"] * 2
    assert operators_outside_xnnpack(exported("softmax_classifier", "w4a8").file()) == ["SOFTMAX"]


@pytest.mark.parametrize(
    ("config", "target", "layout"),
    [
        ("w4a8", "int8_container", "fast"),
        ("w4a4_signed4", "int8_container", "fast"),
        ("w4a4_everywhere", "packed_int4", "smallest"),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_litert_and_tensorflow_agree(network: str, config: str, target: str, layout: str) -> None:
    made = exported(network, config)
    data = made.file(target, layout=layout)
    for ours, theirs in zip(
        outputs(data, made.images, "litert"),
        outputs(data, made.images, "tensorflow"),
        strict=True,
    ):
        if network in keras_networks.WITH_FLOAT_LAYERS:  # each runtime has a sine of its own
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs)
