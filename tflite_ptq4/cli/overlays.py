"""What the commands write for Model Explorer, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tflite_ptq4.cli.console import message
from tflite_ptq4.evaluation.runnable_models import read_model_file
from tflite_ptq4.model_explorer import NodeData, write_node_data


def overlay(folder: Path, measures: Iterable[NodeData], model: Path) -> None:
    """Write measures for a `.tflite` file, and say how to look at them.

    Args:
        folder: where to.
        measures: from `model_explorer`.
        model: path of the `.tflite` file.
    """
    written = write_node_data(folder, measures, read_model_file(model))
    paths = ",".join(map(str, written))
    message(
        f"Wrote {len(written)} files into {folder}. To look at them (pip install "
        f"ai-edge-model-explorer): model-explorer {model} --node_data_paths={paths}"
    )
