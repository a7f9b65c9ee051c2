"""Exported integer files against an independent reference, both runtimes, and level counts."""

from __future__ import annotations

from dataclasses import replace

import keras_networks
import numpy as np
import pytest
from exported_networks import INTEGER_CONFIGS, exported
from file_checks import excess_levels, reference_mismatches
from runtimes import computed_tensors, int8_tensors, operators_outside_xnnpack, outputs

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


@pytest.mark.parametrize(
    ("network", "config", "zero_point"),
    [("residual", "w4a4", 112), ("residual", "w4a4_signed4", 120)],
)
def test_a_tensor_of_4_bits_does_take_its_16_levels(
    network: str, config: str, zero_point: int
) -> None:
    """Without this, a count of at most 16 would say little."""
    made = exported(network, config)
    values = computed_tensors(made.file(), made.images)
    zero_points = {index: point for index, (_, point) in int8_tensors(made.file()).items()}
    found = [np.unique(values[index]) for index, z in zero_points.items() if z == zero_point]
    assert found
    assert max(len(levels) for levels in found) == 16
    assert all(levels[0] == 112 for levels in found if len(levels) == 16)


def test_a_level_too_many_is_found() -> None:
    """The same file held against a plan of half the bits."""
    made = exported("residual", "w4a8")
    plan = made.quantized.plan
    halved = {
        name: replace(
            tensor, bits=tensor.bits // 2, zero_point=2 ** (tensor.bits // 2) - 1 - tensor.upper
        )
        for name, tensor in plan.tensors.items()
    }
    wrong = excess_levels(made.file(), replace(plan, tensors=halved), made.images)
    assert len(wrong) == len(halved)
    assert "planned 4 bits" in wrong[0]


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
        if network in keras_networks.WITH_FLOAT_LAYERS:  # each runtime has a sine of its own
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs)
