"""Sensitivity from one pass against running the network with one layer at a time quantized."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import keras
import numpy as np
import pytest
import tensorflow as tf
from kept_batches import batches_of
from keras import layers
from keras_networks import build, conv, images_for

from tflite_ptq4 import LayerRule, QuantizationConfig
from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side import sensitivity
from tflite_ptq4.keras_side.calibration.array_calibration import calibrate
from tflite_ptq4.keras_side.execution import activate, linear, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.layer_by_layer.layer_corrections import quantize_on_images
from tflite_ptq4.keras_side.layer_by_layer.layerwise import quantize_layer_by_layer
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.sensitivity import logit_tensors, measure_sensitivity
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.sensitivity import Sensitivity, weights_alone
from tflite_ptq4.weights.layer_weights import LayerWeights

PLAIN = QuantizationConfig(activation_bits=4, bias_correction=False, depthwise_weight_bits=4)
CORRECTED = QuantizationConfig.preset("w4a4")


class Measured:
    """A network, the sensitivities of its layers, and the network with one thing quantized."""

    def __init__(self, model: keras.Model, config: QuantizationConfig, count: int = 64) -> None:
        self.images = images_for(model, count)
        self.lowered = lower(model)
        self.graph = self.lowered.graph
        self.statistics = calibrate(model, self.images)
        self.plan = build_plan(self.graph, self.statistics, config)
        self.weights, _ = quantize_layer_by_layer(
            self.lowered, self.plan, self.images, keeps_unrounded=True
        )

    @cached_property
    def found(self) -> dict[str, Sensitivity]:
        return self.measure()

    def measure(self, **options: int) -> dict[str, Sensitivity]:
        return measure_sensitivity(
            self.lowered, self.plan, self.weights, self.statistics, self.images, **options
        )

    @cached_property
    def in_float(self) -> dict[str, tf.Tensor]:
        return self.run({}, "")

    def run(self, weights: Mapping[str, LayerWeights], rounded: str) -> dict[str, tf.Tensor]:
        values = {n: tf.constant(x) for n, x in zip(self.graph.inputs, self.images, strict=True)}
        for name in self.graph.inputs:
            if name == rounded:
                values[name] = fake_quantize(values[name], self.plan.tensors[name])
        for node in self.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            results = run_node(node, self.lowered.runs.get(node.name), inputs)
            if node.name in weights:
                own = weights[node.name]
                bias = own.stored_bias(self.plan.tensors.get(node.inputs[0]))
                results = [activate(node, linear(node, inputs[0], own.dequantized(node), bias))]
            if node.name == rounded:
                plan = self.plan.tensors[node.output]
                rounding = rounds_after(node, quantized=self.plan.layer(node.name).quantized)
                results = [fake_quantize(results[0], plan, rounding)]
            values.update(zip(node.outputs, results, strict=True))
        return values

    def error(self, weights: Mapping[str, LayerWeights], rounded: str = "") -> float:
        """|y_q - y|^2 / |y|^2 of the outputs, the mean over the outputs."""
        values = self.run(weights, rounded)
        return float(
            np.mean(
                [
                    np.sum(np.square(values[name] - self.in_float[name]))
                    / np.sum(np.square(self.in_float[name]))
                    for name in logit_tensors(self.graph)
                ]
            )
        )

    def error_of(self, node: Node) -> np.ndarray:
        """What the rounding of a layer's weights alone adds to its output."""
        kernel, bias = weights_alone(
            node,
            self.weights[node.name],
            self.plan.tensors[node.inputs[0]],
            self.plan.config,
            self.statistics[node.inputs[0]].mean,
        )
        value = activate(node, linear(node, self.in_float[node.inputs[0]], kernel, bias))
        return np.asarray(value - self.in_float[node.output])

    def of_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Estimated and run, for each layer quantized against the float network's input."""
        estimated, truth = [], []
        for node in self.graph.weighted_nodes:
            if node.name in self.weights:
                batch = batches_of(self.in_float[node.inputs[0]])
                alone = quantize_on_images(node, self.plan, batch, batch, keeps_unrounded=True)
                estimated.append(self.found[node.name].weights)
                truth.append(self.error({node.name: alone}))
        return np.array(estimated), np.array(truth)

    def of_activations(self) -> tuple[np.ndarray, np.ndarray]:
        """Estimated and run, for each tensor that is rounded."""
        names = [name for name, value in self.found.items() if value.activation is not None]
        estimated = np.array([self.found[name].activation for name in names])
        return estimated, np.array([self.error({}, name) for name in names])


@pytest.fixture(scope="module")
def residual() -> Measured:
    return Measured(build("residual"), PLAIN)


@pytest.fixture(scope="module")
def corrected() -> Measured:
    return Measured(build("residual"), CORRECTED)


def agrees(estimated: np.ndarray, truth: np.ndarray, factor: float) -> None:
    """Within a factor for each layer, and in nearly the same order."""
    assert len(truth) >= 4
    np.testing.assert_array_less(np.abs(np.log(estimated / truth)), np.log(factor))
    order = np.corrcoef(np.argsort(np.argsort(estimated)), np.argsort(np.argsort(truth)))[0, 1]
    assert order > 0.8


# 64 images and 2 probes: the relative deviation is sqrt(2 / 128) = 0.125, and three of these 0.375.
# What is left is second order, the kinks of the ReLUs.
def test_weights_without_corrections(residual: Measured) -> None:
    agrees(*residual.of_weights(), factor=1.6)


def test_weights_with_corrections(corrected: Measured) -> None:
    agrees(*corrected.of_weights(), factor=2.5)


def test_rounded_outputs(residual: Measured) -> None:
    assert set(residual.found) == {"image", *(node.name for node in residual.graph.nodes)}
    agrees(*residual.of_activations(), factor=2.0)


def test_each_logit_errs_alone() -> None:
    measured = Measured(build("dense_only"), PLAIN)
    (name,) = measured.graph.outputs
    errors, logits = measured.error_of(measured.graph.producer[name]), measured.in_float[name]
    # The square of a sign is 1: there is no chance in it.
    expected = np.square(errors).sum(axis=0) / np.sum(np.square(logits))
    np.testing.assert_allclose(measured.found[name].by_channel, expected, rtol=1e-3)


def test_channels_of_a_layer_add_up_to_it(residual: Measured) -> None:
    for node in residual.graph.weighted_nodes:
        found = residual.found[node.name]
        assert len(found.by_channel) == node.output_channels
        # What two channels do together is zero on average of the signs, not in each draw.
        assert 0.4 < sum(found.by_channel) / found.weights < 2.5
    assert residual.found["image"].by_channel == ()


def test_the_same_twice_and_in_batches(residual: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    again = residual.measure(probes=2)
    assert again == residual.found
    # One image at a time, other signs.
    monkeypatch.setattr(sensitivity, "ELEMENTS_OF_ALL_TENSORS", 1)
    values = residual.measure(probes=2)
    assert list(values) == list(again)
    for name, value in values.items():
        assert value.total == pytest.approx(again[name].total, rel=0.5)  # 4 times 0.125


def test_layers_in_float_have_none() -> None:
    inputs = keras.Input((4, 4, 3), name="image")
    model = keras.Model(inputs, conv(2, name="last")(conv(3, name="kept")(inputs)))
    config = PLAIN.replace(rules=(LayerRule(match="kept", quantize=False),))
    measured = Measured(model, config, count=2)
    assert measured.found["kept/linear"].weights is None
    assert measured.found["last/linear"].weights > 0


def test_logits_are_taken_before_a_softmax_and_outputs_count_alike() -> None:
    inputs = keras.Input((4, 4, 3), name="image")
    hidden = conv(4)(inputs)
    small = layers.Dense(3, name="small")(layers.Flatten()(hidden))
    large = layers.Rescaling(1e4)(conv(2, activation=None, name="large")(hidden))
    model = keras.Model(inputs, [layers.Softmax()(small), large])
    measured = Measured(model, PLAIN, count=64)
    assert logit_tensors(measured.graph)[0] == "small"
    for name in ("small", "large"):
        assert measured.found[name].activation == pytest.approx(measured.error({}, name), rel=0.4)


def test_values_that_meet_on_one_scale_are_rounded_once() -> None:
    inputs = keras.Input((4, 4, 3), name="image")
    sides = [conv(3, name="left")(inputs), conv(3, name="right")(inputs)]
    model = keras.Model(inputs, conv(2)(layers.Concatenate(name="meet")(sides)))
    measured = Measured(model, PLAIN, count=2)
    assert {"left/linear", "right/linear"} < set(measured.found)
    assert "meet" not in measured.found
