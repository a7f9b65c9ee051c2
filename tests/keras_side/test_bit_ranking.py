from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from keras_networks import build, images_for

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.keras_side.bit_ranking import SAMPLES, measured_for_budgets
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.sensitivity import Sensitivity

W4A4 = QuantizationConfig.preset("w4a4")


@pytest.fixture(scope="module")
def residual():
    model = build("residual")
    (images,) = images_for(model, 24)
    return model, lower(model), calibrate(model, images), images


def test_every_layer_and_every_rounded_tensor_is_measured_at_its_usual_bits(residual) -> None:
    _, lowered, statistics, images = residual
    measured = measured_for_budgets(lowered, statistics, W4A4, [images])
    for node in lowered.graph.weighted_nodes:
        assert measured[node.name].weights > 0
    wider = measured_for_budgets(lowered, statistics, W4A4.replace(activation_bits=6), [images])
    inner = [node.name for node in lowered.graph.weighted_nodes][1:-2]
    ratios = [measured[name].activation / wider[name].activation for name in inner]
    assert np.all(np.array(ratios) > 4)  # 16 in theory; a value just above a level costs nothing


def test_nothing_is_measured_where_there_is_nothing_to_spend(residual) -> None:
    _, lowered, statistics, images = residual
    for config in (QuantizationConfig.preset("w8a8"), QuantizationConfig.preset("paper_w4a4")):
        assert measured_for_budgets(lowered, statistics, config, [images]) is None


@pytest.mark.parametrize("part", ["weight", "activation"])
def test_only_what_has_a_budget_is_measured(residual, part: str) -> None:
    _, lowered, statistics, images = residual
    both = measured_for_budgets(lowered, statistics, W4A4, [images])
    config = W4A4.replace(**{f"{part}_bit_budget": None})
    found = measured_for_budgets(lowered, statistics, config, [images])
    left_out = {"weight": {"weights": None, "by_channel": ()}, "activation": {"activation": None}}
    expected = {name: replace(value, **left_out[part]) for name, value in both.items()}
    assert found == {name: value for name, value in expected.items() if value != Sensitivity()}


def test_bits_of_channels_are_measured_and_spent(residual) -> None:
    model, _, statistics, images = residual
    config = W4A4.replace(weight_bit_allocation="measured", minimum_bits=3)
    quantized = quantize_model(model, statistics, config, images=images)
    inner = quantized.lowered.graph.weighted_nodes[1:-1]
    bits = [quantized.plan.layer(node.name).weight_bits for node in inner]
    sizes = [node.kernel.size / node.output_channels for node in inner]
    total = sum(size * own.sum() for size, own in zip(sizes, bits, strict=True))
    count = sum(node.kernel.size for node in inner)
    assert 4.15 * count - max(sizes) < total <= 4.15 * count
    assert min(own.min() for own in bits) == 3 and max(own.max() for own in bits) > 4


def test_bits_of_channels_are_measured_beside_activations_clipped_by_channel(residual) -> None:
    _, lowered, statistics, images = residual
    config = QuantizationConfig.preset("paper_w4a4", weight_bit_allocation="measured")
    assert measured_for_budgets(lowered, statistics, config, [images]) is not None


def test_only_some_images_are_measured(residual) -> None:
    _, lowered, statistics, images = residual
    fast = W4A4.replace(effort="fast")
    chosen = np.linspace(0, 23, SAMPLES["fast"].images).round().astype(int)
    spoilt = np.full_like(images, np.nan)
    spoilt[chosen] = images[chosen]
    assert measured_for_budgets(lowered, statistics, fast, [spoilt]) == measured_for_budgets(
        lowered, statistics, fast, [images]
    )


def test_the_plan_spends_what_was_measured(residual) -> None:
    model, lowered, statistics, images = residual
    sizes = {name: prod(lowered.graph.shapes[name][1:]) for name in lowered.graph.tensors}

    def average(budget: float | None) -> float:
        config = W4A4.replace(activation_bit_budget=budget)
        tensors = quantize_model(model, statistics, config, images=images).plan.tensors
        own = [name for name, tensor in tensors.items() if tensor.source == name]
        return sum(int(tensors[name].bits[0]) * sizes[name] for name in own) / sum(
            sizes[name] for name in own
        )

    usual = average(None)
    assert usual < average(usual + 0.5) <= usual + 0.5
