from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import pytest

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.fake_quantization import (
    FakeQuantize,
    fake_quantize,
    rounds_after,
)
from tflite_ptq4.operator_rules import RULES, OutputScale
from tflite_ptq4.plan import TensorPlan


def plan(bits: Sequence[int], scale: Sequence[float], zero_point: Sequence[int]) -> TensorPlan:
    return TensorPlan(
        name="x",
        source="x",
        bits=np.array(bits),
        scale=np.array(scale, float),
        zero_point=np.array(zero_point),
        method=("auto",) * len(bits),
        reason="",
    )


@pytest.mark.parametrize(
    ("tensor", "values", "expected"),
    [
        # 16 levels from 0: 0, 0.5, ..., 7.5
        (([4], [0.5], [0]), [-3, 0.24, 0.25, 0.26, 0.75, 7.4, 9], [0, 0, 0, 0.5, 1.0, 7.5, 7.5]),
        # -3 ... 4.5, half to even
        (([4], [0.5], [6]), [-9, -3, -0.75, -0.25, 4.5, 9], [-3, -3, -1, 0, 4.5, 4.5]),
        (([1], [2.0], [1]), [-5, -0.9, 0.9, 5], [-2, 0, 0, 0]),
        # no bits: one level, wherever the values are
        (([0], [0.3], [-1]), [-5, 0, 5], [0.3, 0.3, 0.3]),
        (([0], [0.3], [1]), [-5, 0, 5], [-0.3, -0.3, -0.3]),
    ],
)
def test_values_go_to_the_nearest_level(tensor: tuple, values: list, expected: list) -> None:
    found = fake_quantize(np.array(values, np.float32)[:, None], plan(*tensor))
    np.testing.assert_array_equal(np.ravel(found), np.float32(expected))


def test_each_channel_has_its_own_levels(rng: np.random.Generator) -> None:
    values = rng.normal(0, 3, (500, 3)).astype(np.float32)
    tensor = plan([2, 0, 8], [1.0, 0.75, 0.05], [1, -1, 128])
    found = np.asarray(fake_quantize(values, tensor))
    assert sorted(set(found[:, 0])) == [-1, 0, 1, 2]
    assert set(found[:, 1]) == {np.float32(0.75)}
    steps = found[:, 2] / np.float32(0.05)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(found[:, 2] - np.clip(values[:, 2], -6.4, 6.35)).max() <= 0.0251


@pytest.mark.parametrize(
    ("zero_point", "value", "even", "away"),
    [
        # stored = q + 127 - upper; AVERAGE_POOL_2D rounds what is stored away from zero
        (0, 2.5, 2, 2),  # 16 levels 112..127: stored 114.5 -> 115, which is 3
        (10, -2.5, -2, -3),
        (10, 0.5, 0, 1),
    ],
)
def test_halves_go_away_from_the_stored_zero(
    zero_point: int, value: float, even: int, away: int
) -> None:
    tensor = plan([4], [1.0], [zero_point])
    stored = value + tensor.stored_zero_point[0]
    expected = np.sign(stored) * np.floor(np.abs(stored) + 0.5) - tensor.stored_zero_point[0]
    values = np.array([[value]], np.float32)
    assert float(fake_quantize(values, tensor)[0, 0]) == even
    assert float(fake_quantize(values, tensor, "half_away")[0, 0]) == expected


def test_the_stored_levels_end_at_127() -> None:
    tensor = plan([4, 8, 4, 2], [1.0] * 4, [0, 0, 7, 3])
    assert tensor.stored_zero_point.tolist() == [112, -128, 119, 127]
    assert (tensor.stored_zero_point + tensor.upper == 127).all()


def _node(kind: str) -> Node:
    return Node("n", kind, "", ("x",), ("n",))


def test_operators_that_move_values_are_not_rounded_again() -> None:
    for kind, rule in RULES.items():
        expected = None if rule.output_scale is OutputScale.INPUT else "half_even"
        if rule.interpolates:
            expected = "half_away"
        assert rounds_after(_node(kind), quantized=True) == expected
        assert rounds_after(_node(kind), quantized=False) == "half_even"
    assert rounds_after(_node("max_pool"), quantized=True) is None
    assert rounds_after(_node("average_pool"), quantized=True) == "half_away"
    assert rounds_after(_node("conv2d"), quantized=True) == "half_even"


@pytest.mark.parametrize("rounding", ["half_even", "half_away"])
def test_the_layer_comes_back_from_its_config(rng: np.random.Generator, rounding: str) -> None:
    tensor = plan([4, 0, 8], [0.1, 1 / 3, 0.05], [3, -1, 128])
    layer = FakeQuantize.of(tensor, rounding=rounding, name="rounding")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (type(again), again.name, again.rounding) == (FakeQuantize, "rounding", rounding)
    values = rng.normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(values), layer(values))
    np.testing.assert_array_equal(layer(values), fake_quantize(values, tensor, rounding))
    assert layer(keras.Input((5, 3))).shape == (None, 5, 3)
