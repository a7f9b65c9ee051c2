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
from tflite_ptq4.cli.model_files import common_input_shapes, is_tflite
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.evaluation.model_evaluation import EvaluationRow, evaluate_models
from tflite_ptq4.evaluation.runnable_models import (
    RunnableModel,
    keras_model,
    read_model_file,
    tflite_model,
)
from tflite_ptq4.keras_side.load_model import bytes_on_disk, check_model_file, load_model
from tflite_ptq4.progress import track


def run(arguments: argparse.Namespace) -> None:
    """Run every model on the same images, and compare each with the first."""
    check_images(arguments.data)
    for path in arguments.models:
        if not is_tflite(path):
            check_model_file(path, arguments.framework)
    with results_only_on_stdout():
        models = [_runnable(path, arguments) for path in arguments.models]
        shapes = common_input_shapes(models)
        images = images_from(arguments.data, arguments, shapes, arguments.samples)
        for model in models:
            if model.outputs > 1:
                message(f"{model.name} has {model.outputs} outputs; its first is measured.")
        if images.labels is None:
            message(f"{arguments.data} has no labels, so there is no accuracy.")
        rows = evaluate_models(models, images, progress=track)
        if images.labels is not None and rows[0].top1 is None:
            message("The models' outputs are no classes, so there is no accuracy.")
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


def _runnable(path: Path, arguments: argparse.Namespace) -> RunnableModel:
    message(f"Loading {path}")
    if is_tflite(path):
        with native_stderr_held_back():
            return tflite_model(
                read_model_file(path), name=str(path), num_threads=arguments.threads
            )
    import_tensorflow()
    return keras_model(
        load_model(path, arguments.framework), name=str(path), size=bytes_on_disk(path)
    )


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
