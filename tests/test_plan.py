from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_graphs import graph_of, plain, statistics_of, weighted

from tflite_ptq4 import FileFormatError, LayerRule, OutputError, QuantizationConfig
from tflite_ptq4.plan import QuantizationPlan, TensorPlan
from tflite_ptq4.planning.planner import build_plan


@pytest.fixture(params=["per tensor", "per channel"])
def plan(request: pytest.FixtureRequest) -> QuantizationPlan:
    rng = np.random.default_rng(0)
    graph = graph_of(
        weighted("stem", "image", rng.normal(size=(3, 3, 2, 3)), activation="relu"),
        plain("pool", "max_pool", "stem"),
        weighted("middle", "pool", rng.normal(size=(3, 3, 3, 3)), activation="relu"),
        plain("strange", "float", "middle"),
        weighted("head", "strange", rng.normal(size=(3, 4)), kind="dense"),
        plain("probabilities", "softmax", "head"),
    )
    config = QuantizationConfig(rules=(LayerRule(match="middle", weight_bits=5),))
    if request.param == "per channel":
        config = config.replace(activation_bits=4, activation_bit_allocation="exact")
    return build_plan(graph, statistics_of(graph), config)


def _same(left: QuantizationPlan, right: QuantizationPlan) -> None:
    assert left.to_dict() == right.to_dict()
    assert left.config == right.config
    assert [vars(layer).keys() for layer in left.layers] == [
        vars(layer).keys() for layer in right.layers
    ]
    for mine, other in zip(left.layers, right.layers, strict=True):
        np.testing.assert_equal(vars(mine), vars(other))
    assert list(left.tensors) == list(right.tensors)
    for name, mine in left.tensors.items():
        np.testing.assert_equal(vars(mine), vars(right.tensors[name]))
        for field in ("bits", "scale", "zero_point"):
            assert getattr(mine, field).dtype == getattr(right.tensors[name], field).dtype


def test_a_saved_plan_comes_back_to_the_last_bit(plan: QuantizationPlan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    loaded = QuantizationPlan.load(path)
    _same(loaded, plan)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_plain_values_are_the_inverse_too(plan: QuantizationPlan) -> None:
    _same(QuantizationPlan.from_dict(plan.to_dict()), plan)


def _without(key: str) -> Callable[[dict], object]:
    return lambda values: {k: v for k, v in values.items() if k != key}


def _config_of(**changes: object) -> Callable[[dict], object]:
    return lambda values: {**values, "config": {**values["config"], **changes}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: {**values, "version": 2}, "version 2"),
        (_without("version"), "'version'"),
        (_without("tensors"), "'tensors'"),
        (_without("config"), "'config'"),
        (_without("fingerprint"), "'fingerprint'"),
        (lambda values: {**values, "layers": [{"name": "a"}]}, "LayerPlan"),
        (lambda values: {**values, "tensors": [{"title": "a"}]}, "TensorPlan"),
        (lambda values: {**values, "layers": 3}, "int"),
        (_config_of(weight_bits=77), "weight_bits"),
        (_config_of(wieght_bits=4), "weight_bits"),
        (lambda values: [values], "list"),
        (lambda values: None, "NoneType"),
    ],
)
def test_other_json_is_no_plan(
    plan: QuantizationPlan, tmp_path: Path, damage: Callable[[dict], object], message: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(damage(plan.to_dict())))
    with pytest.raises(FileFormatError, match=message):
        QuantizationPlan.load(path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"layer  type  weights"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"plan\.json"):
        QuantizationPlan.load(path)


def test_an_unwritable_path_is_refused(plan: QuantizationPlan, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        plan.save(tmp_path / "absent" / "plan.json")


def test_the_table_has_every_layer_and_the_reasons(plan: QuantizationPlan) -> None:
    lines = plan.render().splitlines()
    assert lines[0].split() == [
        "layer",
        "type",
        "weights",
        "output",
        "scale",
        "zero",
        "point",
        "clip",
        "method",
    ]
    assert lines[1].startswith("(input)")
    body = [line.split() for line in lines[2:8]]
    assert [cells[0] for cells in body] == [layer.name for layer in plan.layers]
    assert [cells[1] for cells in body] == [layer.layer_type for layer in plan.layers]
    # weights: first and last 8 bits, the rule's 5, float where nothing is quantized
    assert [cells[2] for cells in body if cells[0] in ("stem", "middle", "head")] == ["8", "5", "8"]
    assert body[3][2] == "float"
    assert lines[3].endswith("as stem")
    assert lines[8:] == ["not quantized: strange: no integer form"]


def test_the_table_shows_a_span_where_channels_differ(plan: QuantizationPlan) -> None:
    spans = [".." in line for line in plan.render().splitlines() if line.startswith("stem")]
    assert spans == [plan.tensors["stem"].per_channel]


def test_plans_are_found_by_name(plan: QuantizationPlan) -> None:
    assert plan.layer("middle").weight_bits.tolist() == [5, 5, 5]
    assert [layer.name for layer in plan.in_float] == ["strange"]
    assert plan.layer("strange").reason == "no integer form"
    with pytest.raises(KeyError, match="absent"):
        plan.layer("absent")


@pytest.mark.parametrize(
    ("bits", "scale", "zero_point", "integers", "reals"),
    [
        (4, 0.5, 0, (0, 15), (0.0, 7.5)),  # after a ReLU
        (4, 0.5, 6, (-6, 9), (-3.0, 4.5)),
        (8, 2.0, 255, (-255, 0), (-510.0, 0.0)),
        (1, 1.0, 0, (0, 1), (0.0, 1.0)),
        (0, 0.25, -1, (1, 1), (0.25, 0.25)),  # one level, the mean 0.25
        (0, 0.25, 1, (-1, -1), (-0.25, -0.25)),
        (0, 1.0, 0, (0, 0), (0.0, 0.0)),
    ],
)
def test_levels_of_a_tensor(
    bits: int,
    scale: float,
    zero_point: int,
    integers: tuple[int, int],
    reals: tuple[float, float],
) -> None:
    tensor = TensorPlan(
        "t", "t", np.array([bits]), np.array([scale]), np.array([zero_point]), ("auto",), ""
    )
    assert (tensor.lower[0], tensor.upper[0]) == integers
    assert (tensor.low[0], tensor.high[0]) == reals
    assert tensor.upper[0] - tensor.lower[0] + 1 == 2**bits
