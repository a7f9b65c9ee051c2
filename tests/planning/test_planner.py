from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_graphs import branched, chain, graph_of, plain, statistics_of, weighted

from tflite_ptq4 import LayerRule, ModelError, QuantizationConfig, StatisticsError
from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.operator_rules import OutputScale
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.planning.layer_settings import layers_to_quantize
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.sensitivity import Sensitivity
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 2, 2))
PAPER = QuantizationConfig.preset("paper_w4a4", quantized_tensors="all")


def plan_of(graph: LayerGraph, config: QuantizationConfig | None = None) -> QuantizationPlan:
    return build_plan(graph, statistics_of(graph), config or QuantizationConfig())


# --- bits ---


def test_weight_bits_by_place() -> None:
    plan = plan_of(
        chain("conv2d", "depthwise_conv2d", "conv2d", "dense"),
        QuantizationConfig(weight_bits=4, depthwise_weight_bits=6, last_layer_bits=7),
    )
    bits = {layer.name: layer.weight_bits.tolist() for layer in plan.layers}
    assert bits == {
        "conv2d0": [8, 8],  # first
        "depthwise_conv2d1": [6, 6],
        "conv2d2": [4, 4],
        "dense3": [7, 7],  # last
    }
    assert "first_layer_bits" in plan.layer("conv2d0").reason
    assert "depthwise_weight_bits" in plan.layer("depthwise_conv2d1").reason
    assert "last_layer_bits" in plan.layer("dense3").reason


def depthwise_stack() -> LayerGraph:
    """Between two ends 640 pointwise weights, and depthwise layers of 18, 36 and 36 weights."""
    widths = [("a", 2), ("b", 4), ("c", 4)]
    nodes, source = [weighted("first", "image", np.ones((1, 1, 2, 2)))], "first"
    for name, width in widths:
        nodes.append(weighted(name, source, np.ones((3, 3, width, 1)), kind="depthwise_conv2d"))
        source = name
    nodes += [weighted("body", source, np.ones((1, 1, 4, 160))), weighted("last", "body", KERNEL)]
    return graph_of(*nodes)


@pytest.mark.parametrize(
    "rules", [(), (LayerRule(match="a", quantize=False), LayerRule(match="last", quantize=False))]
)
def test_which_layers_are_quantized_is_known_before_the_plan(rules: tuple[LayerRule, ...]) -> None:
    graph = depthwise_stack()
    config = QuantizationConfig(rules=rules)
    plan = build_plan(graph, statistics_of(graph), config)
    planned = [layer.name for layer in plan.layers if layer.weight_bits is not None]
    assert list(layers_to_quantize(graph, config)) == planned
    assert len(planned) == len(graph.weighted_nodes) - len(rules)


@pytest.mark.parametrize(
    ("average", "raised"),
    [
        (None, ""),
        # 730 weights at 4 bits; 8 bits add 4 to each: 72 for a, 144 for b, 144 for c.
        (4.0, ""),
        (4.09, ""),  # 65.7 bits to give
        (4.1, "a"),  # 73
        (4.29, "a"),  # 211.7
        (4.3, "ab"),  # 219
        (4.5, "abc"),  # 365 of 360
    ],
)
def test_small_depthwise_layers_get_their_bits_first(average: float | None, raised: str) -> None:
    config = QuantizationConfig(weight_bit_budget=average)
    graph = depthwise_stack()
    plan = build_plan(graph, statistics_of(graph), config)
    found = {name for name in "abc" if plan.layer(name).weight_bits.max() == 8}
    assert found == set(raised)
    assert all("weight_bit_budget" in plan.layer(name).reason for name in raised)


@pytest.mark.parametrize(
    ("errors", "average", "raised"),
    [
        # The cost of 8 bits: 72 bits for a, 144 for b and c, 2560 for body, of 730 * (average - 4).
        ({"a": 1.0, "b": 3.0, "c": 1.0}, 4.2, {"b"}),  # 146 bits: b gains 3/144, a 1/72
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 4.2, {"a"}),  # b no longer fits after a
        ({"a": 0.0, "b": 0.0, "c": 0.0}, 8.0, set()),  # nothing to gain
        ({"body": 100.0, "a": 1.0}, 4.2, {"a"}),  # body is too large
        ({"body": 100.0, "a": 1.0}, 7.61, {"a", "body"}),  # 2635 bits
        ({"first": 100.0, "last": 100.0}, 8.0, set()),  # the ends have their own
    ],
)
def test_the_most_sensitive_layers_for_a_bit_get_their_bits_first(
    errors: dict[str, float], average: float, raised: set[str]
) -> None:
    graph = depthwise_stack()
    measured = {name: Sensitivity(weights=error) for name, error in errors.items()}
    config = QuantizationConfig(weight_bit_budget=average, first_layer_bits=5, last_layer_bits=5)
    plan = build_plan(graph, statistics_of(graph), config, measured)
    assert {layer.name for layer in plan.layers if layer.weight_bits.max() == 8} == raised


@pytest.mark.parametrize(
    ("costs", "average", "expected"),
    [
        # 18, 36 and 36 weights in channels of 9, 640 in channels of 4: 730 in all. At 2 bits a
        # channel costs 16 times what it does at 4, at 3 four times, and a bit more gains 3/4 of it.
        ({"a": (1.0, 1.0)}, 2.0, {}),
        ({"a": (1.0, 1.0)}, 2.0 + 9 / 730, {"a": (3, 2)}),  # equal: the first
        ({"a": (1.0, 3.9)}, 2.0 + 18 / 730, {"a": (3, 3)}),  # after a bit 3.9 / 4 is less than 1
        ({"a": (1.0, 4.1)}, 2.0 + 18 / 730, {"a": (2, 4)}),
        ({"a": (1.0, 0.0), "b": (0.0, 9.0, 0.0, 0.0)}, 3.0, {"a": (8, 2), "b": (2, 8, 2, 2)}),
        # The least cost for a bit, but in a channel of 4 weights in place of 9.
        ({"a": (1.0, 1.0), "body": (0.5, *[0.0] * 159)}, 2.0 + 4 / 730, {"body": (3, *[2] * 159)}),
        ({"first": (9.0, 9.0), "last": (9.0, 9.0)}, 8.0, {}),  # the ends have their own
    ],
)
def test_channels_that_cost_most_for_a_bit_get_theirs_first(
    costs: dict[str, tuple[float, ...]], average: float, expected: dict[str, tuple[int, ...]]
) -> None:
    graph = depthwise_stack()
    measured = {name: Sensitivity(1.0, by_channel=channels) for name, channels in costs.items()}
    config = QuantizationConfig(weight_bit_allocation="measured", weight_bit_budget=average)
    plan = build_plan(graph, statistics_of(graph), config, measured)
    for name, channels in {"a": 2, "b": 4, "c": 4, "body": 160}.items():
        assert tuple(plan.layer(name).weight_bits) == expected.get(name, (2,) * channels)
        assert plan.layer(name).reason == "measured bit allocation"
    assert plan.layer("first").weight_bits.tolist() == [8, 8]


@given(
    seed=st.integers(0, 100),
    minimum=st.integers(0, 3),
    maximum=st.integers(4, 8),
    budget=st.none() | st.floats(4.5, 8),
)
def test_measured_bits_stay_in_their_bounds_and_meet_the_average(
    seed: int, minimum: int, maximum: int, budget: float | None
) -> None:
    graph, rng = depthwise_stack(), np.random.default_rng(seed)
    measured = {
        name: Sensitivity(1.0, by_channel=tuple(rng.exponential(size=channels) ** 3))
        for name, channels in {"a": 2, "b": 4, "c": 4, "body": 160}.items()
    }
    config = QuantizationConfig(
        weight_bit_allocation="measured",
        weight_bit_budget=budget,
        minimum_bits=minimum,
        maximum_bits=maximum,
        rules=(LayerRule(match="b", weight_bits=6),),
    )
    plan = build_plan(graph, statistics_of(graph), config, measured)
    assert plan.layer("b").weight_bits.tolist() == [6] * 4
    shared = np.concatenate([plan.layer(name).weight_bits for name in ("a", "c", "body")])
    assert shared.min() >= max(minimum, 2) and shared.max() <= maximum
    sizes = {"a": 9, "b": 9, "c": 9, "body": 4}
    total = sum(plan.layer(name).weight_bits.sum() * size for name, size in sizes.items())
    # A step that no longer fits takes less than 9 bits; nothing fits beyond the widest.
    most = min((budget or 4.0) * 730, 36 * 6 + 694 * maximum)
    assert most - 9 < total <= most + 1e-9


def test_bits_that_were_not_measured_go_to_whole_layers() -> None:
    graph = depthwise_stack()
    measured = QuantizationConfig(weight_bit_allocation="measured", average_weight_bits=4.1)
    by_layer = QuantizationConfig(weight_bit_budget=4.1)
    plan = build_plan(graph, statistics_of(graph), measured)
    assert plan.config == by_layer
    assert plan.layer("a").weight_bits.tolist() == [8, 8]


def test_a_budget_changes_no_bits_that_a_rule_names() -> None:
    graph = depthwise_stack()
    rules = (LayerRule(match="a", weight_bits=4), LayerRule(match="b", weight_bits=6))
    config = QuantizationConfig(weight_bit_budget=4.5, rules=rules)
    plan = build_plan(graph, statistics_of(graph), config)
    # b takes 72 of the 365 bits, c 144.
    assert [int(plan.layer(name).weight_bits[0]) for name in "abc"] == [4, 6, 8]


@pytest.mark.parametrize(
    ("errors", "budget", "expected"),
    [
        # image 8 bits, left, right, sum usual 4, body 8 as input of the last layers (pool takes its
        # scale), heads 8: 7 tensors of 32 elements each, 44 bits a position, 6.286 on average.
        ({"left": 1.0, "sum": 1.0}, 6.286, {}),
        ({"left": 1.0, "sum": 9.0}, 6.43, {"sum": 5}),  # 45 bits
        ({"left": 1.0, "sum": 9.0}, 6.58, {"sum": 6}),  # 46: 9/4 is still more than 1
        ({"left": 1.0, "sum": 9.0}, 6.72, {"left": 5, "sum": 6}),  # 47: 1 is more than 9/16
        ({"left": 1.0, "sum": 1.0}, 8.0, {"left": 8, "sum": 8}),
        (None, 6.86, {"right": 8}),  # not measured: signed ones, at once
        (None, 6.85, {}),
    ],
)
def test_the_most_sensitive_activations_get_their_bits_first(
    errors: dict[str, float] | None, budget: float, expected: dict[str, int]
) -> None:
    measured = None
    if errors is not None:
        measured = {name: Sensitivity(activation=error) for name, error in errors.items()}
    config = QuantizationConfig(activation_bits=4, activation_bit_budget=budget)
    graph = branched()
    plan = build_plan(graph, statistics_of(graph), config, measured)
    bits = {name: int(plan.tensors[name].bits[0]) for name in ("left", "right", "sum")}
    assert bits == {"left": 4, "right": 4, "sum": 4} | expected
    assert all("activation_bit_budget" in plan.tensors[name].reason for name in expected)


def test_tensors_on_one_scale_are_raised_together() -> None:
    graph = graph_of(
        weighted("stem", "image", KERNEL, activation="relu"),
        weighted("a", "stem", KERNEL, activation="relu"),
        weighted("b", "stem", KERNEL, activation="relu"),
        plain("joined", "concatenate", "a", "b"),
        weighted("body", "joined", np.ones((1, 1, 4, 2)), activation="relu"),
        weighted("last", "body", KERNEL),
    )
    # image, body and last have 8 bits, stem and joined (32 + 64 elements) 4: 6 a position of 7.
    config = QuantizationConfig(activation_bits=4, activation_bit_budget=6.5)
    measured = {"a": Sensitivity(activation=1.0), "b": Sensitivity(activation=1.0)}
    plan = build_plan(graph, statistics_of(graph), config, measured)
    assert [int(plan.tensors[name].bits[0]) for name in ("stem", "a", "b", "joined")] == [
        4,
        5,
        5,
        5,
    ]


def test_no_exceptions_where_none_are_asked_for() -> None:
    config = QuantizationConfig(weight_bits=4, first_layer_bits=None, last_layer_bits=None)
    plan = plan_of(chain("conv2d", "conv2d", "dense"), config)
    assert [set(layer.weight_bits.tolist()) for layer in plan.layers] == [{4}] * 3


def test_activation_bits_by_place() -> None:
    plan = plan_of(
        branched(),
        QuantizationConfig(
            activation_bits=4, input_bits=7, output_bits=6, signed_activation_bits=5
        ),
    )
    bits = {name: tensor.bits.tolist() for name, tensor in plan.tensors.items()}
    assert bits == {
        "image": [7],
        "left": [4],
        "right": [5],  # signed
        "sum": [4],
        "body": [8],  # read by last layers only, one of them through the pool
        "pool": [8],
        "head_a": [6],
        "head_b": [6],
    }
    assert plan.tensors["image"].reason == "network input"
    assert plan.tensors["head_a"].reason == "network output"
    assert plan.tensors["body"].reason == "input of the last layer"
    assert "signed_activation_bits" in plan.tensors["right"].reason


def test_the_input_of_the_last_layer_has_at_least_its_own_bits() -> None:
    graph = chain("conv2d", "conv2d", "dense")
    six = plan_of(graph, QuantizationConfig(activation_bits=4, last_layer_bits=6))
    assert six.tensors["conv2d1"].bits.tolist() == [6]
    none = plan_of(graph, QuantizationConfig(activation_bits=4, last_layer_bits=None))
    assert none.tensors["conv2d1"].bits.tolist() == [4]
    wide = plan_of(graph, QuantizationConfig(activation_bits=8, last_layer_bits=6))
    assert wide.tensors["conv2d1"].bits.tolist() == [8]


def test_what_goes_into_the_last_softmax_is_an_output_too() -> None:
    config = QuantizationConfig(activation_bits=4, output_bits=7)
    plan = plan_of(chain("conv2d", "dense", "softmax", activation=None), config)
    assert plan.tensors["dense1"].bits.tolist() == [7]
    softmax = plan.tensors["softmax2"]
    assert (softmax.bits[0], softmax.scale[0], softmax.zero_point[0]) == (8, 1 / 256, 0)


@pytest.mark.parametrize("average", [4, 3.5, 5.3])
@pytest.mark.parametrize("method", ["exact", "paper"])
def test_allocation_meets_the_average(average: float, method: str) -> None:
    rng = np.random.default_rng(1)
    kernels = [rng.normal(size=(3, 3, 20, 20)) * 2.0 ** rng.normal(size=20) for _ in range(3)]
    graph = graph_of(
        weighted("stem", "image", rng.normal(size=(3, 3, 2, 20)), activation="relu"),
        weighted("a", "stem", kernels[0], activation="relu"),
        weighted("b", "a", kernels[1], activation="relu"),
        weighted("c", "b", kernels[2]),
    )
    config = QuantizationConfig(
        average_weight_bits=average,
        average_activation_bits=average,
        weight_bit_allocation=method,
        activation_bit_allocation=method,
    )
    plan = plan_of(graph, config)
    weights, activations = plan.layer("a").weight_bits, plan.tensors["a"].bits
    for bits in (weights, activations):
        assert len(bits) == 20
        assert len(set(bits.tolist())) > 1
        assert (bits >= 0).all() and (bits <= 8).all()
        if method == "exact":
            assert bits.sum() == round(average * 20)
        else:
            assert bits.mean() == pytest.approx(average, abs=0.2)
    assert plan.tensors["a"].reason == f"{method} bit allocation"
    # The ends have their own bits: nothing is allocated there.
    assert plan.layer("stem").weight_bits.tolist() == [8] * 20
    assert plan.tensors["image"].bits.tolist() == [8, 8]


def test_allocation_stays_in_its_bounds() -> None:
    config = PAPER.replace(minimum_bits=3, maximum_bits=5)
    plan = plan_of(chain("conv2d", "conv2d", "conv2d", "dense"), config)
    for bits in (plan.layer("conv2d1").weight_bits, plan.tensors["conv2d1"].bits):
        assert set(bits.tolist()) <= {3, 4, 5}


# --- scales ---


@given(
    seed=st.integers(0, 500),
    bits=st.integers(2, 8),
    clipping=st.sampled_from(["auto", "laplace", "gaussian", "min_max", "percentile", "mse"]),
    per_channel=st.booleans(),
)
def test_every_scale_holds_zero_and_is_a_float32(
    seed: int, bits: int, clipping: str, per_channel: bool
) -> None:
    graph = chain("conv2d", "depthwise_conv2d", "dense", activation=None, seed=seed)
    config = QuantizationConfig(
        activation_bits=bits,
        activation_clipping=clipping,
        activation_granularity="per_channel" if per_channel else "per_tensor",
    )
    plan = build_plan(graph, statistics_of(graph, seed), config)
    for tensor in plan.tensors.values():
        assert tensor.per_channel == per_channel
        np.testing.assert_array_equal(tensor.scale, tensor.scale.astype(np.float32))
        assert (tensor.scale > 0).all()
        assert (tensor.zero_point >= 0).all() and (tensor.zero_point < 2**tensor.bits).all()
        assert (tensor.low <= 0).all() and (tensor.high >= 0).all()
        assert set(tensor.method) <= {"laplace", "gaussian", "min_max", "percentile", "mse"}


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_min_max_covers_the_range(granularity: str) -> None:
    graph = chain("conv2d", "dense", activation=None)
    statistics = statistics_of(graph)
    config = QuantizationConfig(activation_clipping="min_max", activation_granularity=granularity)
    for name, tensor in build_plan(graph, statistics, config).tensors.items():
        seen = statistics[name] if tensor.per_channel else statistics[name].per_tensor()
        # The zero point is whole: the range may move by half a step.
        assert (tensor.low <= np.minimum(seen.minimum, 0) + tensor.scale / 2 * 1.001).all()
        assert (tensor.high >= np.maximum(seen.maximum, 0) - tensor.scale / 2 * 1.001).all()
        width = np.maximum(seen.maximum, 0) - np.minimum(seen.minimum, 0)
        np.testing.assert_allclose(tensor.scale, width / 255, rtol=1e-6)


def test_a_channel_counts_as_much_as_its_readers_amplify_it() -> None:
    """A wide channel that nothing reads: the clip follows the narrow one, and else the wide one."""
    kernel = np.ones((1, 1, 2, 2))
    reader = kernel.copy()
    reader[:, :, 1] = 0.0
    graph = graph_of(weighted("a", "image", kernel), weighted("b", "a", reader))
    values = RNG.normal(size=(5000, 2)) * [1.0, 50.0]
    statistics = {name: TensorStatistics.from_array(values) for name in ("image", "a", "b")}
    high = {
        error: build_plan(
            graph,
            statistics,
            QuantizationConfig(activation_bits=4, clipping_error=error, activation_clipping="mse"),
        )
        .tensors["a"]
        .high.item()
        for error in ("readers", "tensor")
    }
    assert high["readers"] < 30 < 90 < high["tensor"]


def test_nonnegative_tensors_start_at_zero() -> None:
    graph = chain("conv2d", "max_pool", "add", "dense", activation="relu")
    plan = plan_of(graph)
    assert {"conv2d0", "max_pool1"} <= graph.nonnegative
    for name in graph.nonnegative:
        assert plan.tensors[name].zero_point.tolist() == [0]


def test_a_channel_of_no_bits_is_its_mean() -> None:
    """Three channels, of mean -2, 0 and 3: one level each, wherever the mean lies."""
    graph = graph_of(
        weighted("a", "image", np.ones((1, 1, 2, 3))),
        weighted("b", "a", np.ones((1, 1, 3, 3))),
        weighted("c", "b", np.ones((1, 1, 3, 3))),
    )
    values = np.array([[-2.5, -1.0, 3.5], [-1.5, 1.0, 2.5]])
    statistics = {
        name: TensorStatistics.from_array(values[:, : graph.shapes[name][-1]])
        for name in graph.tensors
    }
    config = PAPER.replace(average_activation_bits=0, maximum_bits=4, last_layer_bits=None)
    tensor = build_plan(graph, statistics, config).tensors["a"]
    assert tensor.bits.tolist() == [0, 0, 0]
    assert tensor.low.tolist() == tensor.high.tolist() == [-2.0, 0.0, 3.0]
    assert tensor.method == ("mean",) * 3


def test_dead_tensors_get_a_plan() -> None:
    graph = chain("conv2d", "conv2d", "dense")
    dead = TensorStatistics.from_array(np.zeros((4, 2)))
    plan = build_plan(graph, {**statistics_of(graph), "conv2d0": dead}, QuantizationConfig())
    assert plan.tensors["conv2d0"].scale.tolist() == [1.0]
    assert plan.tensors["conv2d0"].zero_point.tolist() == [0]


# --- shared scales ---


@pytest.mark.parametrize("kind", ["max_pool", "average_pool", "pad", "reshape"])
def test_what_moves_values_keeps_their_scale(kind: str) -> None:
    plan = plan_of(chain("conv2d", kind, kind, "dense"))
    own = plan.tensors["conv2d0"]
    for name in (f"{kind}1", f"{kind}2"):
        moved = plan.tensors[name]
        assert (moved.name, moved.source) == (name, "conv2d0")
        assert (moved.bits, moved.scale, moved.zero_point) == (own.bits, own.scale, own.zero_point)


@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_tensors_that_only_meet_in_an_extremum_share_its_scale(kind: str) -> None:
    graph = graph_of(
        weighted("a", "image", KERNEL),
        weighted("b", "image", KERNEL),
        weighted("c", "image", KERNEL),
        plain("inner", kind, "a", "b"),
        plain("outer", kind, "inner", "c"),
        weighted("last", "outer", KERNEL),
        weighted("beside", "c", KERNEL),
        outputs=("last", "beside"),
    )
    found = _sources(plan_of(graph), "a", "b", "inner", "c", "outer")
    assert found == ["outer", "outer", "outer", "c", "outer"]


def concatenated(*extra, outputs: tuple[str, ...] = ("last",)) -> LayerGraph:
    return graph_of(
        weighted("stem", "image", KERNEL, activation="relu"),
        weighted("a", "stem", KERNEL, activation="relu"),
        weighted("b", "stem", KERNEL),
        plain("pool", "max_pool", "stem"),
        plain("joined", "concatenate", "a", "b", "pool"),
        weighted("last", "joined", np.ones((1, 1, 6, 2))),
        *extra,
        outputs=outputs,
    )


def _sources(plan: QuantizationPlan, *names: str) -> list[str]:
    return [plan.tensors[name].source for name in names]


def test_tensors_that_only_meet_in_a_concatenation_share_its_scale() -> None:
    plan = plan_of(concatenated())
    # The pool moves values of `stem`, which others read too.
    assert _sources(plan, "a", "b", "pool") == ["joined", "joined", "stem"]
    assert plan.tensors["a"].scale == plan.tensors["joined"].scale
    assert plan.tensors["joined"].zero_point > 0  # because of b
    assert plan.tensors["a"].zero_point == plan.tensors["joined"].zero_point


@pytest.mark.parametrize(
    ("graph", "config"),
    [
        (concatenated(weighted("too", "a", KERNEL), outputs=("last", "too")), {}),
        (concatenated(outputs=("last", "a")), {}),
        (concatenated(), {"rules": (LayerRule(match="a", quantize=False),)}),
        (concatenated(), {"activation_granularity": "per_channel"}),
    ],
    ids=["read elsewhere", "an output", "in float", "a scale per channel"],
)
def test_a_tensor_of_other_use_keeps_its_scale(graph: LayerGraph, config: dict) -> None:
    assert _sources(plan_of(graph, QuantizationConfig(**config)), "a") == ["a"]


def test_a_concatenation_of_concatenations_has_one_scale() -> None:
    graph = graph_of(
        weighted("a", "image", KERNEL),
        weighted("b", "image", KERNEL),
        plain("inner", "concatenate", "a", "b"),
        weighted("c", "image", KERNEL),
        plain("outer", "concatenate", "inner", "c"),
        weighted("last", "outer", np.ones((1, 1, 6, 2))),
    )
    assert _sources(plan_of(graph), "a", "b", "inner", "c", "outer") == ["outer"] * 5


def test_every_source_has_a_scale_of_its_own() -> None:
    for graph in (concatenated(), branched(), chain("conv2d", "pad", "max_pool", "dense")):
        plan = plan_of(graph)
        for tensor in plan.tensors.values():
            assert plan.tensors[tensor.source].source == tensor.source


# --- rules, and what stays in float ---


def test_a_rule_by_name_sets_bits_and_clipping() -> None:
    rule = LayerRule(
        match="conv2d1", weight_bits=3, activation_bits=5, activation_clipping="percentile"
    )
    plan = plan_of(
        chain("conv2d", "conv2d", "conv2d", "dense"),
        QuantizationConfig(rules=(rule,), activation_clipping="mse"),
    )
    assert plan.layer("conv2d1").weight_bits.tolist() == [3, 3]
    assert plan.tensors["conv2d1"].bits.tolist() == [5]
    assert plan.tensors["conv2d1"].method == ("percentile",)
    assert plan.tensors["conv2d0"].method == ("mse",)
    assert "rules[0]" in plan.layer("conv2d1").reason


@pytest.mark.parametrize("match", ["block", "block/conv", "block/conv/linear", "block*"])
def test_a_rule_on_a_layer_means_its_parts(match: str) -> None:
    """A layer with `activation=` is lowered to "<its name>/linear"."""
    graph = graph_of(
        weighted("stem", "image", KERNEL, activation="relu"),
        weighted("block/conv/linear", "stem", KERNEL, activation="relu"),
        weighted("blocks", "block/conv/linear", KERNEL),
    )
    config = QuantizationConfig(
        rules=(LayerRule(match=match, weight_bits=3),), last_layer_bits=None
    )
    plan = plan_of(graph, config)
    assert plan.layer("block/conv/linear").weight_bits.tolist() == [3, 3]
    expected = 3 if match == "block*" else 4
    assert plan.layer("blocks").weight_bits.tolist() == [expected] * 2


def test_a_layer_in_float_keeps_the_scales_of_its_neighbours() -> None:
    graph = chain("conv2d", "conv2d", "conv2d", "dense")
    plan = plan_of(graph, QuantizationConfig(rules=(LayerRule(match="conv2d1", quantize=False),)))
    (layer,) = plan.in_float
    assert (layer.name, layer.weight_bits) == ("conv2d1", None)
    assert layer.reason == "quantize=False from rules[0]"
    # What integer layers write and read is quantized, so conv2d1 reads and writes levels.
    assert list(plan.tensors) == list(graph.tensors)


def test_an_operator_without_integer_form_says_why() -> None:
    plan = plan_of(chain("float", "conv2d", "float", "float", "max_pool", "float", "dense"))
    reasons = {layer.name: layer.reason for layer in plan.in_float}
    assert reasons == {
        "float0": "no integer form",
        "float2": "no integer form",
        "float3": "no integer form",
        "max_pool4": "no integer operator beside it",
        "float5": "no integer form",
    }
    # The image, and what lies between two operators in float, are no integers.
    assert list(plan.tensors) == ["float0", "conv2d1", "float5", "dense6"]


def test_only_what_layers_read() -> None:
    config = QuantizationConfig(quantized_tensors="layer_inputs", activation_bits=4)
    plan = plan_of(branched(), config)
    assert list(plan.tensors) == ["image", "sum", "body", "pool"]
    assert all(layer.quantized for layer in plan.layers)
    assert plan.tensors["pool"].source == "body"


def test_the_plan_names_every_operator_and_its_graph() -> None:
    graph = concatenated()
    plan = plan_of(graph)
    assert [layer.name for layer in plan.layers] == [node.name for node in graph.nodes]
    assert plan.fingerprint == graph.fingerprint
    for layer, node in zip(plan.layers, graph.nodes, strict=True):
        assert (layer.weight_bits is not None) == node.rule.weighted
        if node.rule.output_scale is OutputScale.OWN and layer.quantized:
            assert layer.output in plan.tensors


def test_the_same_plan_twice() -> None:
    for config in (QuantizationConfig(), PAPER):
        assert plan_of(branched(), config).to_dict() == plan_of(branched(), config).to_dict()


def test_a_step_inside_a_layer_has_eight_bits_and_is_in_no_budget() -> None:
    body = weighted("body", "image", KERNEL, activation="relu")
    step = replace(plain("body2/step", "elu", "body2"), inner=True)
    graph = graph_of(
        body,
        weighted("body2", "body", KERNEL),
        step,
        plain("act", "relu", "body2/step"),
        weighted("last", "act", KERNEL),
    )
    rules = (LayerRule(match="body2", activation_bits=5),)
    config = QuantizationConfig(activation_bits=4, last_layer_bits=None, rules=rules)
    for budget in (None, 4.5):
        plan = plan_of(graph, config.replace(activation_bit_budget=budget))
        bits = {name: int(tensor.bits[0]) for name, tensor in plan.tensors.items()}
        assert bits["body2"] == 5
        assert bits["body2/step"] == 8
        assert plan.tensors["body2/step"].reason == "a step inside a layer"


# --- refusals ---


def test_missing_statistics_are_named() -> None:
    graph = chain("conv2d", "conv2d", "dense")
    kept = {name: value for name, value in statistics_of(graph).items() if name != "conv2d1"}
    with pytest.raises(StatisticsError, match="'conv2d1'"):
        build_plan(graph, kept, QuantizationConfig())


def test_a_tensor_that_saw_nothing_is_refused() -> None:
    graph = chain("conv2d", "dense")
    empty = CalibrationStatistics(
        images=0,
        fingerprint="",
        tensors={name: TensorStatistics.empty(2) for name in graph.tensors},
    )
    with pytest.raises(StatisticsError, match="Calibrate"):
        build_plan(graph, empty, QuantizationConfig())


def test_a_config_that_leaves_everything_in_float_is_refused() -> None:
    with pytest.raises(ModelError, match=r"quantize=False from rules\[0\]"):
        plan_of(
            chain("conv2d", "dense"),
            QuantizationConfig(rules=(LayerRule(match="*", quantize=False),)),
        )


# --- scales ---


@pytest.mark.parametrize("moved", [False, True], ids=["directly", "through a pool"])
def test_what_a_sigmoid_reads_is_on_no_tie(moved: bool) -> None:
    body = weighted("body", "image", KERNEL, activation="relu")
    pool = [plain("pool", "max_pool", "body")] * moved
    gate = plain("gate", "sigmoid", "pool" if moved else "body")
    graph = graph_of(body, *pool, gate, weighted("last", "gate", KERNEL))
    tie = np.log(0.580078125 / 0.419921875)  # sigmoid(tie) * 256 = 148.5, tie the first level
    statistics = dict(statistics_of(graph))
    statistics["body"] = TensorStatistics.from_array(np.array([[0.0, 0.0], [tie, 255 * tie]], "f"))
    config = QuantizationConfig(activation_clipping="min_max", last_layer_bits=None)
    plan = build_plan(graph, statistics, config).tensors["body"]
    assert plan.zero_point.tolist() == [0]
    assert tie < plan.scale[0] < 1.01 * tie
    steps = 256.0 / (1.0 + np.exp(-plan.scale[0]))
    assert abs(steps - 148.5) > 2e-4
