from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import int8_conv

from tflite_ptq4.errors import OutputError
from tflite_ptq4.evaluation.model_comparison import LayerComparison, ModelComparison
from tflite_ptq4.model_explorer import (
    NodeData,
    comparison_node_data,
    node_data_json,
    report_node_data,
    write_node_data,
)
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.report.values import LayerRow
from tflite_ptq4.sensitivity import Sensitivity

# Its one operator writes "tensor_3", in the graph "main".
CONTENT = int8_conv(np.ones((1, 1, 1, 1), np.int8))


def row(name: str, bits: float, output: float | None, **values: Any) -> LayerRow:
    facts = {field.name: None for field in fields(LayerRow)}
    facts |= {"quantized": bits < 32, "weights": 10, "weight_bits": bits, "activation_bits": 8.0}
    return LayerRow(**{**facts, "name": name, "output_sqnr_db": output, **values})


ROWS = (
    row("conv", 4.0, 18.5, weight_sqnr_db=21.0, sensitivity=Sensitivity(weights=0.001)),
    row("exact", 8.0, None, sensitivity=Sensitivity(activation=0.0)),
    row("norm", 32.0, 17.0, weights=0, activation_bits=32.0),
)


def compared(name: str, sqnr_db: float, dead: bool = False) -> LayerComparison:
    difference = 0.0 if sqnr_db == np.inf else 1.0
    return LayerComparison("a", name, "name", False, 1, sqnr_db, 1.0, difference, None, None, dead)


def test_a_report_gives_five_measures() -> None:
    output, weight, alone, activation_bits, weight_bits = report_node_data(
        QuantizationReport(ROWS, average_weight_bits=6, average_activation_bits=8, config="")
    )
    assert (output.name, output.values) == ("output SQNR", {"conv": 18.5, "norm": 17.0})
    assert (weight.name, weight.values) == ("weight SQNR", {"conv": 21.0})
    assert alone.values == {"conv": pytest.approx(30.0)}
    assert activation_bits.values == {"conv": 8.0, "exact": 8.0, "norm": 32.0}
    assert weight_bits.values == {"conv": 4.0, "exact": 8.0}
    for data in (output, weight, alone, activation_bits, weight_bits):
        bounds = [bound for bound, _ in data.colours]
        assert bounds == sorted(set(bounds))


def test_a_comparison_gives_the_error_of_the_second_model() -> None:
    layers = (
        compared("x", np.inf),
        compared("y", 12.0),
        compared("z", -np.inf),
        compared("dead", -40.0, True),
    )
    (data,) = comparison_node_data(ModelComparison("a", "b", 4, 20.0, layers, (), ()))
    assert data.values == {"y": 12.0}


def test_operators_are_named_by_what_they_write() -> None:
    values = {"tensor_3": 1.234567, "tensor_1": 2.0, "no tensor": 3.0}
    data = NodeData("measure", values, ((1, "red"), (2, "blue")))
    assert json.loads(node_data_json(data, CONTENT)) == {
        "main": {
            "name": "measure",
            "results": {"tensor_3": {"value": 1.23}},
            "thresholds": [{"value": 1, "bgColor": "red"}, {"value": 2, "bgColor": "blue"}],
        }
    }


def test_each_measure_is_a_file_of_its_own(tmp_path: Path) -> None:
    measures = [NodeData("a b", {"tensor_3": 1.0}, ()), NodeData("none", {}, ())]
    folder = tmp_path / "new" / "folder"
    assert write_node_data(folder, iter(measures), CONTENT) == (folder / "a_b.json",)
    assert [path.name for path in folder.iterdir()] == ["a_b.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="must go into a folder"):
        write_node_data(tmp_path / "file", measures, CONTENT)


def test_model_explorer_finds_its_nodes(tmp_path: Path) -> None:
    try:
        distribution("ai-edge-model-explorer")
    except PackageNotFoundError:
        pytest.skip("ai-edge-model-explorer is not installed, which takes half a gigabyte")
    (tmp_path / "m.tflite").write_bytes(CONTENT)
    data = NodeData("measure", {"tensor_3": 1.0}, ((2, "red"),))
    write_node_data(tmp_path, [data], CONTENT)
    # In a process of its own: the package brings half of TensorFlow with it.
    script = """
import json
import dacite
from model_explorer.builtin_tflite_flatbuffer_adapter import BuiltinTfliteFlatbufferAdapter
from model_explorer.node_data_builder import GraphNodeData
((collection,),) = BuiltinTfliteFlatbufferAdapter().convert("m.tflite", {}).values()
nodes = {
    (graph["id"], attribute["value"])
    for graph in collection.graphs
    for node in graph["nodes"]
    for output in node.get("outputsMetadata", [])
    for attribute in output["attrs"]
    if attribute["key"] == "tensor_name"
}
for graph, data in json.load(open("measure.json")).items():
    parsed = dacite.from_dict(GraphNodeData, data, dacite.Config(strict=True))
    assert parsed.results, parsed
    for tensor in parsed.results:
        assert (graph, tensor) in nodes, (graph, tensor, nodes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
