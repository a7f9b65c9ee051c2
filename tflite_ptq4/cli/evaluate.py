"""`tflite-ptq4 evaluate`: models and images in, a table of accuracies and agreement out."""

from __future__ import annotations

import argparse
from pathlib import Path

from tflite_ptq4.cli.console import (
    decibels,
    message,
    percent,
    print_json,
    print_table,
    results_only_on_stdout,
)
from tflite_ptq4.cli.files import check_images, images_from
from tflite_ptq4.cli.quiet_tensorflow import import_tensorflow, native_stderr_held_back
from tflite_ptq4.errors import ModelError
from tflite_ptq4.evaluation import (
    TFLITE_IDENTIFIER,
    EvaluationRow,
    RunnableModel,
    evaluate_models,
    keras_model,
    read_model_file,
    tflite_model,
)
from tflite_ptq4.keras_side.load_model import check_model_file, load_model
from tflite_ptq4.progress import track


def run(arguments: argparse.Namespace) -> None:
    """Run every model on the same images, and compare each with the first."""
    check_images(arguments.data)
    for path in arguments.models:
        if not _is_tflite(path):
            check_model_file(path)
    with results_only_on_stdout():
        models = [_runnable(path, arguments.threads) for path in arguments.models]
        images = images_from(arguments.data, arguments, common_input_shape(models))
        for model in models:
            if model.outputs > 1:
                message(f"{model.name} has {model.outputs} outputs; its first is measured.")
        if images.labels is None:
            message(f"{arguments.data} has no labels, so there is no accuracy.")
        rows = evaluate_models(models, images, progress=track)
    if arguments.json:
        print_json(
            {
                "data": str(arguments.data),
                "images": len(images),
                "models": [row.to_dict() for row in rows],
            }
        )
    else:
        _print_rows(f"{len(images)} images of {arguments.data}", rows)


def common_input_shape(models: list[RunnableModel]) -> tuple[int | None, ...]:
    """Return the (H, W, C) that all models take, None where any length will do.

    Raises:
        ModelError: two models take images of different shapes.
    """
    shape = list(models[0].input_shape)
    for model in models[1:]:
        other = model.input_shape
        if len(other) != len(shape) or any(
            None not in (a, b) and a != b for a, b in zip(shape, other, strict=True)
        ):
            raise ModelError(
                "Models that are compared must take the same images: "
                f"{models[0].name!r} takes {models[0].input_shape}, {model.name!r} takes {other}."
            )
        shape = [b if a is None else a for a, b in zip(shape, other, strict=True)]
    return tuple(shape)


def _is_tflite(path: Path) -> bool:
    """Whether the file is to be read as TFLite: it says so in its name or its content."""
    if path.suffix == ".tflite":
        return True
    return path.is_file() and read_model_file(path)[4:8] == TFLITE_IDENTIFIER


def _runnable(path: Path, threads: int) -> RunnableModel:
    message(f"Loading {path}")
    if _is_tflite(path):
        with native_stderr_held_back():
            return tflite_model(read_model_file(path), name=str(path), num_threads=threads)
    import_tensorflow()
    return keras_model(load_model(path), name=str(path), size=path.stat().st_size)


def _print_rows(title: str, rows: list[EvaluationRow]) -> None:
    print_table(
        title,
        ("model", "bytes", "top-1", "top-5", "agreement", "SQNR"),
        [
            (
                row.name,
                f"{row.bytes:,}",
                percent(row.top1),
                percent(row.top5),
                percent(row.agreement),
                decibels(row.sqnr_db),
            )
            for row in rows
        ],
    )
