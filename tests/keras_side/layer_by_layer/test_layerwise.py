"""Layer by layer: matching, refit and rounding, each against both networks run by this test."""

from __future__ import annotations

import time
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras_networks import build, chain, images_for

from tflite_ptq4 import LayerRule, QuantizationConfig
from tflite_ptq4.keras_side.calibration.array_calibration import calibrate
from tflite_ptq4.keras_side.execution import activate, linear, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.layer_by_layer import layer_corrections, layerwise
from tflite_ptq4.keras_side.layer_by_layer.layerwise import quantize_layer_by_layer
from tflite_ptq4.keras_side.lowering import LoweredModel, lower
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import LayerWeights
from tflite_ptq4.weights.quantized_weights import quantize_layer

NOTHING = QuantizationConfig(bias_correction=False, depthwise_weight_bits=4)
MATCHING = NOTHING.replace(output_matching=True)
EVERYTHING = MATCHING.replace(refit_weights=True, weight_rounding="second_order")


@dataclass(frozen=True)
class Run:
    lowered: LoweredModel
    plan: QuantizationPlan
    images: np.ndarray
    weights: dict[str, LayerWeights]
    sqnr: dict[str, float]


def quantized(model: keras.Model, config: QuantizationConfig, count: int = 24) -> Run:
    (images,) = images_for(model, count)
    lowered = lower(model)
    plan = build_plan(lowered.graph, calibrate(model, images), config)
    return Run(lowered, plan, images, *quantize_layer_by_layer(lowered, plan, (images,)))


def both_networks(run: Run) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """For each node its inputs, linear output and outputs, in the float and the coded network."""
    graph, plan = run.lowered.graph, run.plan

    def network(coded: bool) -> dict[str, tuple]:
        def write(name: str, value, rounding: str | None):
            if coded and rounding and name in plan.tensors:
                return fake_quantize(value, plan.tensors[name], rounding)
            return value

        values = {graph.inputs[0]: write(graph.inputs[0], tf.constant(run.images), "half_even")}
        found = {}
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if coded and node.name in run.weights:
                weights = run.weights[node.name]
                bias = weights.stored_bias(plan.tensors.get(node.inputs[0]))
                plain = linear(node, inputs[0], weights.dequantized(node), bias)
                outputs = [activate(node, plain)]
            else:
                plain = (
                    linear(node, inputs[0], node.kernel, node.bias) if node.rule.weighted else None
                )
                outputs = run_node(node, run.lowered.runs.get(node.name), inputs)
            rounding = rounds_after(node, quantized=plan.layer(node.name).quantized)
            outputs = [
                write(name, value, rounding)
                for name, value in zip(node.outputs, outputs, strict=True)
            ]
            values.update(zip(node.outputs, outputs, strict=True))
            found[node.name] = (inputs, plain, outputs)
        return found

    return network(False), network(True)


def flat(value) -> np.ndarray:
    return np.asarray(value, np.float64).reshape(-1, value.shape[-1])


NETWORKS = ["residual", "depthwise_multiplier", "conv_grouped", "dense_on_images", "separable"]


@pytest.mark.parametrize("config", [MATCHING, EVERYTHING], ids=["matching", "everything"])
@pytest.mark.parametrize("network", NETWORKS)
def test_matching_gives_every_channel_the_float_mean_and_deviation(
    network: str, config: QuantizationConfig
) -> None:
    run = quantized(build(network), config)
    exact, coded = both_networks(run)
    assert set(run.weights) == {node.name for node in run.lowered.graph.weighted_nodes}
    for name, weights in run.weights.items():
        want, got = flat(exact[name][1]), flat(coded[name][1])
        step = weights.scale * run.plan.tensors[run.lowered.graph.producer[name].inputs[0]].scale
        # The bias is an integer of the accumulator: half a step of it is left of the mean.
        assert (np.abs(got.mean(axis=0) - want.mean(axis=0)) <= 0.51 * step + 1e-5).all(), name
        np.testing.assert_allclose(got.std(axis=0), want.std(axis=0), rtol=1e-3, err_msg=name)


def test_a_channels_scale_changes_by_a_factor_of_two_at_most() -> None:
    """At 2 bits and with the widest scale, most weights round to zero and the spread is lost."""
    config = NOTHING.replace(
        weight_scale="max_abs", weight_bits=2, first_layer_bits=None, last_layer_bits=None
    )
    model = chain(layers.Conv2D(8, 3, name="only"))
    plain, matched = (
        quantized(model, c).weights["only"] for c in (config, config.replace(output_matching=True))
    )
    ratio = matched.scale / plain.scale
    np.testing.assert_array_equal(matched.integers, plain.integers)
    assert (ratio >= 0.5 - 1e-6).all() and (ratio <= 2 + 1e-6).all()
    assert (ratio != 1).any()


def test_one_scale_per_tensor_stays_one_and_means_match() -> None:
    run = quantized(build("residual"), MATCHING.replace(weight_granularity="per_tensor"))
    exact, coded = both_networks(run)
    for name, weights in run.weights.items():
        assert len(set(weights.scale)) == 1
        want, got = flat(exact[name][1]), flat(coded[name][1])
        step = weights.scale * run.plan.tensors[run.lowered.graph.producer[name].inputs[0]].scale
        assert (np.abs(got.mean(axis=0) - want.mean(axis=0)) <= 0.51 * step + 1e-5).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_switched_on_is_nearest_rounding(network: str) -> None:
    run = quantized(build(network), NOTHING)
    for node in run.lowered.graph.weighted_nodes:
        bits = run.plan.layer(node.name).weight_bits
        channels = run.lowered.graph.shapes[node.inputs[0]][-1]
        plain = quantize_layer(node, bits, NOTHING, input_mean=np.zeros(channels))
        for field in ("integers", "scale", "bias", "offset"):
            np.testing.assert_array_equal(
                getattr(run.weights[node.name], field), getattr(plain, field)
            )


@pytest.mark.parametrize("correction", ["bias", "roundings", "weights"])
def test_bias_correction_uses_the_mean_of_the_coded_input(correction: str) -> None:
    config = NOTHING.replace(bias_correction=True, mean_correction=correction)
    run = quantized(build("residual"), config)
    _, coded = both_networks(run)
    for node in run.lowered.graph.weighted_nodes:
        mean = flat(coded[node.name][0][0]).mean(axis=0)
        bits = run.plan.layer(node.name).weight_bits
        expected = quantize_layer(node, bits, config, input_mean=mean)
        found = run.weights[node.name]
        np.testing.assert_array_equal(found.integers, expected.integers)
        np.testing.assert_array_equal(found.scale, expected.scale)
        np.testing.assert_allclose(found.bias, expected.bias, atol=1e-5)


@pytest.mark.parametrize("switch", ["refit_weights", "weight_rounding", "output_matching"])
@pytest.mark.parametrize("network", ["residual", "conv_grouped", "dense_after_flatten"])
def test_each_switch_lowers_the_error_of_the_outputs(network: str, switch: str) -> None:
    """Each alone against nearest rounding, at weights of 3 bits where there is error to lower."""
    base = NOTHING.replace(
        weight_bits=3, depthwise_weight_bits=3, first_layer_bits=None, last_layer_bits=None
    )
    value = "second_order" if switch == "weight_rounding" else True
    model = build(network)
    plain, improved = (
        quantized(model, base, 64),
        quantized(model, base.replace(**{switch: value}), 64),
    )
    last = [node.name for node in plain.lowered.graph.nodes][-1]
    assert improved.sqnr[last] > plain.sqnr[last]


def test_the_reported_noise_is_that_of_every_output() -> None:
    run = quantized(build("residual"), EVERYTHING)
    exact, coded = both_networks(run)
    assert list(run.sqnr) == ["image", *(node.name for node in run.lowered.graph.nodes)]
    for name, reported in list(run.sqnr.items())[1:]:
        want, got = (np.asarray(found[name][2][0], np.float64) for found in (exact, coded))
        expected = 10 * np.log10(np.square(want).mean() / np.square(want - got).mean())
        assert reported == pytest.approx(expected, abs=0.01)


def test_tensors_computed_anew_are_those_that_would_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs three times as large as the inputs, with and without keeping them."""
    model = chain(
        layers.Conv2D(12, 1, activation="relu6"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu6"),
        layers.Conv2D(4, 1),
        layers.Conv2D(12, 1, activation="relu"),
        layers.Conv2D(4, 3),
    )
    kept = quantized(model, EVERYTHING)
    monkeypatch.setattr(layerwise, "LARGE_TENSOR", 1)
    graph = lower(model).graph
    derived = layerwise.derived_tensors(graph, images=8)
    assert [node.output in derived for node in graph.nodes] == [True, False, False, True, False]
    anew = quantized(model, EVERYTHING)
    assert anew.sqnr == kept.sqnr
    for name, weights in kept.weights.items():
        np.testing.assert_array_equal(anew.weights[name].integers, weights.integers)
        np.testing.assert_array_equal(anew.weights[name].scale, weights.scale)
        np.testing.assert_array_equal(anew.weights[name].bias, weights.bias)


def test_what_a_layer_in_float_moves_is_rounded_also_where_it_is_computed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Repeated values are on the levels of the tensor that they are of, were it not in float."""
    model = chain(layers.Conv2D(3, 1), layers.UpSampling2D(2), layers.Conv2D(2, 1))
    rule = LayerRule(layer_type="UpSampling2D", quantize=False)
    config = EVERYTHING.replace(rules=(rule,))
    kept = quantized(model, config)
    monkeypatch.setattr(layerwise, "LARGE_TENSOR", 1)
    graph = lower(model).graph
    assert graph.nodes[1].output in layerwise.derived_tensors(graph, images=8)
    anew = quantized(model, config)
    assert anew.sqnr == kept.sqnr
    for name, weights in kept.weights.items():
        np.testing.assert_array_equal(anew.weights[name].integers, weights.integers)


def test_a_layer_of_the_user_s_own_is_never_in_two_threads() -> None:
    """Others are: each call takes longer than all that is done meanwhile."""
    inside, most = [], []

    def watched(x):
        inside.append(x)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return 2 * x

    model = chain(layers.Conv2D(2, 1), layers.Lambda(watched), layers.Conv2D(2, 1))
    most.clear()
    quantized(model, EVERYTHING)
    assert max(most) == 1


def test_where_nothing_errs_the_ratio_is_infinite() -> None:
    model = chain(
        layers.Conv2D(2, 1, name="kept"),
        layers.Lambda(lambda x: 2 * x, name="twice"),
        layers.Lambda(lambda x: 3 * x, name="thrice"),
        layers.Conv2D(2, 1, name="last"),
    )
    rules = (LayerRule(match="kept", quantize=False),)
    run = quantized(model, EVERYTHING.replace(rules=rules))
    assert list(run.weights) == ["last"]
    assert run.sqnr["kept"] == run.sqnr["twice"] == np.inf
    assert 0 < run.sqnr["thrice"] < np.inf  # the last layer reads it as integers


def test_dead_and_constant_channels_are_no_trouble() -> None:
    for config in (MATCHING, EVERYTHING):
        run = quantized(build("dead_channels"), config)
        for name, weights in run.weights.items():
            for field in ("scale", "bias", "offset"):
                assert np.isfinite(getattr(weights, field)).all(), (name, field)
            assert (weights.scale > 0).all()


@pytest.mark.parametrize("config", [MATCHING, EVERYTHING], ids=["matching", "everything"])
def test_channels_without_a_grid_stay_constant(config: QuantizationConfig) -> None:
    rule = config.replace(
        weight_bit_allocation="exact", average_weight_bits=1.5, maximum_bits=4,
        first_layer_bits=None, last_layer_bits=None,
    )  # fmt: skip
    run = quantized(build("conv_without_activations"), rule)
    replaced = 0
    for name, weights in run.weights.items():
        bits = run.plan.layer(name).weight_bits
        columns = kernel_matrix(run.lowered.graph.producer[name], weights.integers)
        for channel in np.flatnonzero(bits < 2):
            assert len(np.unique(columns[:, channel])) == 1
            replaced += 1
    assert replaced


def test_integers_stay_on_their_grid() -> None:
    for bits in (2, 3, 4, 8):
        run = quantized(build("residual"), EVERYTHING.replace(weight_bits=bits))
        for name, weights in run.weights.items():
            limit = 2 ** (run.plan.layer(name).weight_bits - 1) - 1
            node = run.lowered.graph.producer[name]
            assert (np.abs(kernel_matrix(node, weights.integers).astype(int)) <= limit).all()
            np.testing.assert_array_equal(weights.scale, weights.scale.astype(np.float32))


def test_a_transposed_convolution_is_rounded_to_nearest_and_matched() -> None:
    model = chain(
        layers.Conv2D(3, 3, name="first"),
        layers.Conv2DTranspose(4, 3, strides=2, name="up"),
        layers.Conv2D(2, 1, name="last"),
    )
    everything, matching = quantized(model, EVERYTHING), quantized(model, MATCHING)
    np.testing.assert_array_equal(
        everything.weights["up"].integers, matching.weights["up"].integers
    )
    exact, coded = both_networks(everything)
    want, got = flat(exact["up"][1]), flat(coded["up"][1])
    np.testing.assert_allclose(got.std(axis=0), want.std(axis=0), rtol=1e-3)


def test_progress_sees_every_operator_and_the_result_is_the_same_twice() -> None:
    model = build("residual")
    run = quantized(model, EVERYTHING)
    seen: list[str] = []

    def progress(nodes):
        for node in nodes:
            seen.append(node.name)
            yield node

    weights, sqnr = quantize_layer_by_layer(run.lowered, run.plan, (run.images,), progress=progress)
    assert seen == [node.name for node in run.lowered.graph.nodes]
    assert sqnr == run.sqnr
    for name, expected in run.weights.items():
        for field in ("integers", "scale", "bias"):
            np.testing.assert_array_equal(getattr(weights[name], field), getattr(expected, field))


def test_what_the_integers_were_rounded_from_is_kept_only_where_asked_for() -> None:
    run = quantized(build("residual"), EVERYTHING)
    assert all(weights.unrounded is None for weights in run.weights.values())
    weights, _ = quantize_layer_by_layer(run.lowered, run.plan, (run.images,), keeps_unrounded=True)
    for node in run.lowered.graph.weighted_nodes:
        kept = weights[node.name]
        np.testing.assert_array_equal(kept.integers, run.weights[node.name].integers)
        error = kernel_matrix(node, kept.dequantized(node) - kept.unrounded) / kept.scale
        assert 0.0 < np.sqrt(np.mean(error**2)) < 1.0  # steps


@pytest.mark.parametrize(
    ("effort", "most_inputs", "held_out"),
    [("balanced", 36, True), ("balanced", 35, False), ("fast", 36, False)],
)
def test_images_are_held_out_where_that_is_worth_its_time(
    effort: str, most_inputs: int, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both convolutions of 3x3 taps on at most 4 channels: 27 and 36 inputs."""
    asked: list[int] = []

    def choose(kernel: np.ndarray, parts: tuple) -> float:
        asked.append(kernel.shape[1])
        return 1.0

    monkeypatch.setattr(layer_corrections, "held_out_ridge", choose)
    monkeypatch.setattr(layer_corrections, "MOST_HELD_OUT_INPUTS", most_inputs)
    model = chain(layers.Conv2D(4, 3, activation="relu"), layers.Conv2D(4, 3))
    quantized(model, EVERYTHING.replace(effort=effort))
    assert (36 in asked) is held_out
