"""`tflite-ptq4 compare`: two models and images in, layer by layer how far they are apart out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tflite_ptq4.cli import EXIT_DIFFERENT, EXIT_OK
from tflite_ptq4.cli.console import (
    decibels,
    message,
    number,
    print_json,
    print_table,
    results_only_on_stdout,
)
from tflite_ptq4.cli.files import check_folder, check_images, images_from
from tflite_ptq4.cli.model_files import common_input_shapes, is_tflite
from tflite_ptq4.cli.overlays import overlay
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.errors import ConfigError
from tflite_ptq4.evaluation.model_comparison import LayerComparison, ModelComparison, compare_models
from tflite_ptq4.evaluation.open_models import OpenModel, open_keras, open_tflite
from tflite_ptq4.evaluation.runnable_models import read_model_file
from tflite_ptq4.keras_side.load_model import check_model_file, load_model
from tflite_ptq4.model_explorer import comparison_node_data
from tflite_ptq4.progress import track

_NAMED = 12  # layers that are named in a line; JSON has them all


def run(arguments: argparse.Namespace) -> int:
    """Run both models on the same images, compare them, and tell by the exit code."""
    check_images(arguments.data)
    for path in (arguments.first, arguments.second):
        if not is_tflite(path):
            check_model_file(path, arguments.framework)
    if arguments.model_explorer is not None:
        check_folder(arguments.model_explorer)
        if not is_tflite(arguments.second):
            raise ConfigError(
                "--model-explorer draws over the graph of the second model, which must be a "
                f".tflite file. Received: {str(arguments.second)!r}. Name the .tflite file second."
            )
    with results_only_on_stdout():
        first, second = (_opened(path, arguments) for path in (arguments.first, arguments.second))
        shapes = common_input_shapes([first, second])
        images = images_from(arguments.data, arguments, shapes, arguments.samples)
        comparison = compare_models(
            first,
            second,
            images,
            threshold_db=arguments.threshold,
            progress=partial(track, "Comparing"),
        )
        if arguments.model_explorer is not None:
            measures = comparison_node_data(comparison)
            overlay(arguments.model_explorer, measures, arguments.second)
    if arguments.json:
        print_json({"data": str(arguments.data), **comparison.to_dict()})
    else:
        _print(comparison, arguments.data)
    return EXIT_OK if comparison.parting is None else EXIT_DIFFERENT


def _opened(path: Path, arguments: argparse.Namespace) -> OpenModel:
    message(f"Loading {path}")
    if is_tflite(path):
        with native_stderr_held_back():
            return open_tflite(read_model_file(path), name=str(path), num_threads=arguments.threads)
    import_tensorflow()
    return open_keras(load_model(path, arguments.framework), name=str(path))


def _print(comparison: ModelComparison, data: Path) -> None:
    print_table(
        f"{comparison.second} against {comparison.first} on {comparison.images} images of {data}",
        ("layer", "in the second", "matched by", "SQNR", "cosine", "max diff", "integers differ"),
        [_row(layer) for layer in comparison.layers],
    )
    dead = [layer.first for layer in comparison.layers if layer.dead]
    if dead:
        print(
            f"Dead: {len(dead)} with next to nothing in them, in both models; what is there is "
            f"rounding, and its SQNR does not count: {_shortened(dead)}"
        )
    for name, layers in (
        (comparison.first, comparison.only_in_first),
        (comparison.second, comparison.only_in_second),
    ):
        if layers:
            shown = _shortened(layers)
            print(f"Not compared: {len(layers)} of {name} without a partner: {shown}")
    print(_conclusion(comparison))


def _row(layer: LayerComparison) -> tuple[str, ...]:
    differ = "-"
    if layer.integers_that_differ is not None:
        differ = f"{layer.integers_that_differ:,}"
        differ += f", at most by {layer.most_steps}" if layer.most_steps else ""
    return (
        _short(layer.first) + (" (output)" if layer.is_output else ""),
        _short(layer.second),
        layer.matched_by,
        "dead" if layer.dead else decibels(layer.sqnr_db),
        number(layer.cosine, "{:.6f}"),
        f"{layer.max_difference:.3g}",
        differ,
    )


def _conclusion(comparison: ModelComparison) -> str:
    differs, parting = comparison.first_difference, comparison.parting
    if differs is None:
        return "Equal: no value differs in any layer that was compared."
    lines = [f"The first difference is in {_named(differs)}."]
    drop = comparison.largest_drop
    if drop is not None:
        before, after = drop
        lines.append(f"The SQNR falls most from {_named(before)} to {_named(after)}.")
    threshold = f"{comparison.threshold_db:g} dB (--threshold)"
    if parting is None:
        lines.append(f"No layer is below {threshold}.")
    else:
        lines.append(f"The models part at {_named(parting)}, the first layer below {threshold}.")
    return "\n".join(lines)


def _named(layer: LayerComparison) -> str:
    return f"{_short(layer.first)} ({decibels(layer.sqnr_db)})"


def _shortened(layers: Sequence[str]) -> str:
    more = ", ..." if len(layers) > _NAMED else ""
    return ", ".join(map(_short, layers[:_NAMED])) + more


def _short(name: str) -> str:
    """Shorten "a;b;c", the converter's name for an operator that it fused from three."""
    return name.split(";")[0]
