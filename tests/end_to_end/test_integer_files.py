"""Exported int8 files of every layer kind, to the integer: LiteRT, TensorFlow, numpy, and levels."""

from __future__ import annotations

import keras_networks
import numpy as np
import pytest
from exported_networks import INTEGER_CONFIGS, exported
from file_checks import excess_levels, reference_mismatches
from runtimes import computed_tensors, operators_outside_xnnpack, outputs

NETWORKS = sorted(keras_networks.NETWORKS)
INTEGER_NETWORKS = sorted(set(NETWORKS) - keras_networks.WITH_FLOAT_LAYERS)


@pytest.mark.parametrize("config", INTEGER_CONFIGS)
@pytest.mark.parametrize("network", INTEGER_NETWORKS)
def test_every_tensor_equals_the_integer_reference(network: str, config: str) -> None:
    made = exported(network, config)
    compared, differing = reference_mismatches(made.file(), made.images, count=4)
    assert compared > 100
    assert differing == {}


@pytest.mark.parametrize("config", INTEGER_CONFIGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_no_activation_takes_more_levels_than_planned(network: str, config: str) -> None:
    made = exported(network, config)
    assert excess_levels(made.file(), made.quantized.plan, made.images) == []


def test_the_level_count_itself_is_tight() -> None:
    """A 4-bit tensor does take its 16 levels, so that a count of at most 16 says something."""
    made = exported("conv_strided", "w4a4")
    (name,) = (n for n, t in made.quantized.plan.tensors.items() if t.bits[0] == 4)
    plan = made.quantized.plan.tensors[name]
    scale, zero_point = np.float32(plan.scale[0]), 127 - int(plan.upper[0])
    for index, values in computed_tensors(made.file(), made.images).items():
        if len(np.unique(values)) == 16:
            assert (scale, zero_point, index) == (scale, 112, index)
            assert values.min() == 112
            return
    pytest.fail("no tensor takes 16 values")


@pytest.mark.parametrize("config", ["w8a8", "w4a4", "w4a4_signed4"])
@pytest.mark.parametrize("network", sorted(keras_networks.FULLY_IN_XNNPACK))
def test_xnnpack_takes_the_whole_file(network: str, config: str) -> None:
    made = exported(network, config)
    for io in ("float32", "int8"):
        assert operators_outside_xnnpack(made.file(io=io)) == []


def test_operators_outside_xnnpack_are_found() -> None:
    assert operators_outside_xnnpack(exported("pools", "w8a8").file()) == ["AVERAGE_POOL_2D"] * 2
    assert operators_outside_xnnpack(exported("softmax_classifier", "w4a8").file()) == ["SOFTMAX"]


@pytest.mark.parametrize("config", ["w4a8", "w4a4_signed4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_litert_and_tensorflow_agree(network: str, config: str) -> None:
    made = exported(network, config)
    for ours, theirs in zip(
        outputs(made.file(), made.images, "litert"),
        outputs(made.file(), made.images, "tensorflow"),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
