from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_graphs import graph_of, plain, statistics_of, weighted

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.report.rows import build_report
from tflite_ptq4.weights.layer_weights import LayerWeights
from tflite_ptq4.weights.quantized_weights import quantize_weights


def network() -> LayerGraph:
    rng = np.random.default_rng(0)
    return graph_of(
        weighted("stem", "image", rng.normal(size=(3, 3, 2, 4)), activation="relu"),  # 72 weights
        plain("pool", "max_pool", "stem"),
        weighted("kept", "pool", rng.normal(size=(1, 1, 4, 5))),  # 20 weights
        plain("strange", "float", "kept"),
        weighted("body", "strange", rng.normal(size=(1, 1, 5, 6))),  # 30 weights
        weighted("head", "body", rng.normal(size=(6, 3)), kind="dense"),  # 18 weights
        shapes={
            "stem": (None, 4, 4, 4),
            "strange": (None, None, 4, 5),
            "body": (None, 4, 4, 6),
            "head": (None, 3),
        },
    )


def report_of(sqnr: dict[str, float], **config: object) -> QuantizationReport:
    graph, statistics = network(), statistics_of(network())
    rules = (LayerRule(match="kept", quantize=False), LayerRule(match="body", weight_bits=3))
    plan = build_plan(graph, statistics, QuantizationConfig(rules=rules, **config))
    weights = quantize_weights(graph, plan, statistics)
    return build_report(graph, plan, weights, sqnr)


def test_rows_are_what_has_weights_what_rounds_and_what_stays_in_float() -> None:
    report = report_of({})
    # `pool` only selects values.
    assert [row.name for row in report.rows] == ["image", "stem", "kept", "strange", "body", "head"]
    assert [row.weights for row in report.rows] == [0, 72, 20, 0, 30, 18]
    assert [row.weight_bits for row in report.rows] == [32, 8, 32, 32, 3, 8]
    # `strange` is read by an integer layer, so it has levels although it is computed in float.
    assert [row.activation_bits for row in report.rows] == [8, 8, 32, 8, 8, 8]
    assert [row.quantized for row in report.rows] == [True, True, False, False, True, True]
    assert [row.name for row in report.in_float] == ["kept", "strange"]


def test_the_bits_at_an_end_of_the_network_name_their_setting() -> None:
    settings = {row.name: row.output_setting for row in report_of({}).rows}
    assert settings == {
        "image": "input_bits",
        "stem": None,
        "kept": None,
        "strange": None,
        "body": None,
        "head": "output_bits",
    }


def test_averages_count_weights_and_elements() -> None:
    report = report_of({}, activation_bits=4, last_layer_bits=None)
    # last_layer_bits=None: the head has 4 bits.
    weight_bits = 72 * 8 + 20 * 32 + 30 * 3 + 18 * 4
    assert report.average_weight_bits == pytest.approx(weight_bits / 140)
    # The image and the moved `pool` do not count; an open side of `strange` counts as 1.
    stem, strange, body, head = 4 * 4 * 4, 4 * 5, 4 * 4 * 6, 3
    bits = 4 * stem + 4 * strange + 4 * body + 8 * head
    assert report.average_activation_bits == pytest.approx(bits / (stem + strange + body + head))


def test_weight_sqnr_is_signal_over_noise() -> None:
    graph = graph_of(weighted("w", "image", np.array([[[[3.0, 1.0], [0.0, 2.0]]]])))
    config = QuantizationConfig(first_layer_bits=None, last_layer_bits=None)
    plan = build_plan(graph, statistics_of(graph), config)

    def row(error: float):
        weights = LayerWeights(
            integers=np.array([[[[3, 1], [0, 2]]]], np.int8),
            scale=np.ones(2),
            bias=np.zeros(2),
            offset=np.full(2, error),
        )
        return build_report(graph, plan, {"w": weights}, {"w": 20.0}).rows[1]

    # 10 log10((9 + 1 + 0 + 4) / (4 * 0.25)) = 11.46 dB
    assert row(0.5).weight_sqnr_db == pytest.approx(10 * np.log10(14))
    assert row(0.0).weight_sqnr_db is None  # no error


@pytest.mark.parametrize(
    ("measured", "reported"),
    [({"body": 21.5}, 21.5), ({}, None), ({"body": np.inf}, None), ({"body": -np.inf}, None)],
)
def test_output_sqnr_is_what_was_measured(measured: dict, reported: float | None) -> None:
    rows = {row.name: row for row in report_of(measured).rows}
    assert rows["body"].output_sqnr_db == reported
    assert rows["kept"].weight_sqnr_db is None


def test_the_report_is_json() -> None:
    report = report_of({"body": np.inf, "head": 3.25})
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert "weight_values" not in values["rows"][1]
    assert values["average_weight_bits"] == report.average_weight_bits
    assert values["config"] == report.config
    assert [row["name"] for row in values["rows"]] == [row.name for row in report.rows]
    assert values["rows"][-1]["output_sqnr_db"] == 3.25


def test_the_table_has_every_row_and_every_reason() -> None:
    report = report_of({"head": 12.34})
    lines = report.render().splitlines()
    rows = [line.split() for line in lines[1:7]]
    assert [cells[0] for cells in rows] == [row.name for row in report.rows]
    assert rows[-1][-1] == "12.3"
    assert rows[0] == ["image", "InputLayer", "8"]
    assert rows[1][:5] == ["stem", "Conv2D", "72", "8", "8"]
    assert rows[3] == ["strange", "Lambda", "8"]  # no weights, nothing measured
    assert lines[7] == ""
    assert lines[8] == (
        f"average bits: {report.average_weight_bits:.2f} per weight, "
        f"{report.average_activation_bits:.2f} per activation"
    )
    assert lines[9:] == [
        "not quantized: kept: quantize=False from rules[0]",
        "not quantized: strange: no integer form",
    ]
