"""Node data for Model Explorer: bits and errors of layers, drawn over the graph of a `.tflite`.

Each measure is a file of its own, a JSON object

    {graph: {"name": ..., "results": {tensor: {"value": ...}}, "thresholds": [...]}}

in which an operator is named by its output tensor. `model-explorer model.tflite --node_data_paths
a.json,b.json` opens the graph with them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tflite_ptq4.atomic_write import make_folder, write_bytes
from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.evaluation.model_comparison import ModelComparison
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.tflite_fields import indices, text

# Up to which value an operator has which background; dark text is legible on all of them.
_DECIBELS = ((10, "#f4796b"), (20, "#fbb36b"), (30, "#fbe18b"), (1000, "#b7e1a1"))
_BITS = ((4, "#9fc5e8"), (8, "#cfe2f3"), (16, "#fbe18b"), (32, "#fbb36b"))


@dataclass(frozen=True)
class NodeData:
    """One measure of the operators of a graph.

    Attributes:
        name: what Model Explorer calls it.
        values: name of an operator's output tensor -> value.
        colours: upper bound and background colour of each range of values, in rising order.
    """

    name: str
    values: Mapping[str, float]
    colours: tuple[tuple[float, str], ...]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.name.replace(' ', '_')}.json"


def report_node_data(report: QuantizationReport) -> tuple[NodeData, ...]:
    """What a report says of each layer, for a file that was written with it.

    Args:
        report: of the quantized model.

    Returns:
        In decibels the SQNR of layers' outputs, of their weights, and of the network's outputs when
        that layer alone is quantized; bits of activations and of weights. A layer is left out where
        there is no such value, for instance the SQNR of a layer without error.
    """
    rows = report.rows
    outputs = {row.name: row.output_sqnr_db for row in rows}
    weights = {row.name: row.weight_sqnr_db for row in rows}
    alone = {row.name: row.sensitivity and row.sensitivity.sqnr_db for row in rows}
    return (
        NodeData("output SQNR", _known(outputs), _DECIBELS),
        NodeData("weight SQNR", _known(weights), _DECIBELS),
        NodeData("SQNR of this layer alone", _known(alone), _DECIBELS),
        NodeData("activation bits", {row.name: row.activation_bits for row in rows}, _BITS),
        NodeData("weight bits", {r.name: r.weight_bits for r in rows if r.weights}, _BITS),
    )


def comparison_node_data(comparison: ModelComparison) -> tuple[NodeData, ...]:
    """How far each layer of the second model, a `.tflite` file, is from the first model.

    Returns:
        SQNR in decibels; equal and dead layers are left out.
    """
    found = {
        layer.second: layer.sqnr_db
        for layer in comparison.layers
        if not (layer.equal or layer.dead)
    }
    return (NodeData("SQNR", _known(found), _DECIBELS),)


def node_data_json(data: NodeData, content: bytes) -> str:
    """The content of a node data file.

    Args:
        data: the measure.
        content: of the `.tflite` file; what is no tensor of its main graph is left out.

    Returns:
        JSON.

    Raises:
        FileFormatError: the content is not a TFLite file.
    """
    graph = parse(content).subgraphs[0]
    written = [*indices(graph.inputs), *(i for op in graph.operators for i in indices(op.outputs))]
    known = {text(graph.tensors[index].name) for index in written}
    results = {n: {"value": round(v, 2)} for n, v in data.values.items() if n in known}
    thresholds = [{"value": bound, "bgColor": colour} for bound, colour in data.colours]
    entry = {"name": data.name, "results": results, "thresholds": thresholds}
    return json.dumps({text(graph.name): entry}, indent=1, allow_nan=False) + "\n"


def write_node_data(
    folder: str | os.PathLike[str], measures: Iterable[NodeData], content: bytes
) -> tuple[Path, ...]:
    """Write one file for each measure that has values.

    Args:
        folder: where to; it is made where it is missing.
        measures: from `report_node_data` or `comparison_node_data`.
        content: of the `.tflite` file.

    Returns:
        The files.

    Raises:
        OutputError: the folder or a file in it cannot be written.
    """
    directory = make_folder(folder)
    found = {directory / data.file_name: data for data in measures if data.values}
    for path, data in found.items():
        write_bytes(path, node_data_json(data, content).encode())
    return tuple(found)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
