"""No tensor takes more values at run time than its bits allow, over all calibration images."""

from __future__ import annotations

from dataclasses import replace

import keras_networks
import numpy as np
import pytest
from exported_networks import INTEGER_FILES, exported
from file_checks import excess_levels, excess_levels_in_float
from runtimes import computed_tensors, int8_tensors

NETWORKS = sorted({**keras_networks.NETWORKS, **keras_networks.WIDER_NETWORKS})
FILES = [(network, *file) for network in NETWORKS for file in INTEGER_FILES]


@pytest.mark.parametrize(("network", "config", "target", "layout"), FILES)
def test_no_activation_of_an_integer_file_takes_more_levels_than_planned(
    network: str, config: str, target: str, layout: str
) -> None:
    made = exported(network, config)
    data = made.file(target, layout=layout)
    assert excess_levels(data, made.quantized.plan, made.images) == []


@pytest.mark.parametrize("config", ["w4a4_signed4", "paper_w4a4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_channel_of_a_float_file_takes_more_levels_than_planned(
    network: str, config: str
) -> None:
    """In the paper's setting per channel, those of 0 bits (one level) among them."""
    made = exported(network, config)
    data = made.file("float_simulated")
    assert excess_levels_in_float(data, made.quantized.plan, made.images) == []


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


def halved(plan):
    """The same plan with half the bits."""
    return replace(
        plan,
        tensors={
            name: replace(
                tensor, bits=tensor.bits // 2, zero_point=2 ** (tensor.bits // 2) - 1 - tensor.upper
            )
            for name, tensor in plan.tensors.items()
        },
    )


def test_a_level_too_many_is_found() -> None:
    made = exported("residual", "w4a8")
    plan = halved(made.quantized.plan)
    wrong = excess_levels(made.file(), plan, made.images)
    assert len(wrong) == len(plan.tensors)
    assert "planned 4 bits" in wrong[0]
    in_float = excess_levels_in_float(made.file("float_simulated"), plan, made.images)
    assert len(in_float) == len(plan.tensors)


def test_a_planned_tensor_that_is_not_there_is_found() -> None:
    made = exported("residual", "w4a8")
    plan = made.quantized.plan
    elsewhere = replace(plan.tensors["image"], name="elsewhere", scale=np.array([0.125]))
    plan = replace(plan, tensors={**plan.tensors, "elsewhere": elsewhere})
    (missing,) = excess_levels(made.file(), plan, made.images)
    assert "planned but not in the file" in missing
    in_float = excess_levels_in_float(made.file("float_simulated"), plan, made.images)
    assert in_float == ["elsewhere is not rounded"]


def test_a_plan_does_hold_channels_of_no_bits() -> None:
    bits = np.concatenate(
        [t.bits for t in exported("dead_channels", "paper_w4a4").quantized.plan.tensors.values()]
    )
    assert 0 in bits
    assert bits.max() > 4
