"""`tflite-ptq4 quantize`: a Keras model and images in, a quantized .tflite file out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.cli.console import decibels, message, print_json, results_only_on_stdout
from tflite_ptq4.cli.files import images_from
from tflite_ptq4.cli.overlays import overlay
from tflite_ptq4.cli.quantize_request import (
    checked_inputs,
    fixed_shapes,
    images_to_compare_on,
    requested_config,
    requested_target,
)
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.cli.tensorflow_start import (
    give_heap_back,
    give_memory_back,
    import_tensorflow,
)
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.description import describe
from tflite_ptq4.evaluation.model_evaluation import evaluate_models
from tflite_ptq4.evaluation.runnable_models import keras_model, tflite_model
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.input_arrays import Images
from tflite_ptq4.keras_side.load_model import (
    bytes_on_disk,
    input_shapes,
    load_model,
)
from tflite_ptq4.model_explorer import report_node_data
from tflite_ptq4.planning.layer_settings import layers_to_quantize
from tflite_ptq4.progress import track
from tflite_ptq4.report.values import Outcome
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

if TYPE_CHECKING:
    import keras
    import tf_keras

    from tflite_ptq4.keras_side.float_files import FloatFiles
    from tflite_ptq4.keras_side.lowering import LoweredModel
    from tflite_ptq4.keras_side.second_thread import SecondThread
    from tflite_ptq4.pipeline import QuantizedModel

SECONDS_BETWEEN_TRIMS = 1.0  # each takes about a hundredth of that


def run(arguments: argparse.Namespace) -> None:
    """Quantize the model, write the file, and run it on images beside the float model."""
    started = time.monotonic()
    config = requested_config(arguments)
    others = {
        f"{average:g} bits": config.with_average_weight_bits(average)
        for average in arguments.accuracy_over_bits
    }
    target = requested_target(arguments, config)
    statistics = checked_inputs(arguments)
    message(f"Loading {arguments.model}")
    with results_only_on_stdout():
        import_tensorflow(in_two_threads=True)
        model = load_model(arguments.model, arguments.framework)
        own = input_shapes(model)
        images = given = None
        if arguments.calibration is not None:
            images = images_from(arguments.calibration, arguments, own, arguments.samples)
            given = images.named(own)
        images = images_to_compare_on(arguments, own, images)
        if images is not None and arguments.data is None:
            images = _with_labels_that_fit(images, model, arguments.calibration)
        fixed = fixed_shapes(arguments, own, given)
        from tflite_ptq4.keras_side.second_thread import SecondThread
        from tflite_ptq4.pipeline import quantize_lowered

        def made(config: QuantizationConfig, *, sensitivity: bool) -> tuple[QuantizedModel, bytes]:
            quantized = quantize_lowered(
                lowered,
                statistics,
                config,
                given,
                float_files=float_files,
                sensitivity=sensitivity,
                progress=_step,
            )
            message(f"Quantized: {describe(quantized.plan.config)}")
            content = quantized.to_tflite(
                target=target,
                io=arguments.io,
                layout=arguments.layout,
                input_shapes=fixed,
                dynamic_batch=arguments.dynamic_batch,
            )
            return quantized, content

        with native_stderr_held_back(messages_pass=True), SecondThread() as beside:
            lowered, float_files, statistics = _prepared(
                model, given, statistics, partial(_converted_beside, beside, fixed, config)
            )
            float_files.raise_refusals()  # what cannot be written need not be quantized
            if given is None and config.needs_images:
                message(_left_out(config))
            quantized, content = made(config, sensitivity=arguments.report is not None)
            write_bytes(arguments.output, content)
            files = {arguments.output.name: (quantized, content)}
            files |= {name: made(other, sensitivity=False) for name, other in others.items()}
        comparison, not_compared = None, "No images were given"
        if images is not None and any(
            array.shape[1:] != fixed[name] for name, array in images.named(own).items()
        ):
            not_compared = "The images have another size than the file's input"
        elif images is not None:
            comparison = _compared(model, arguments, files, images)
        if arguments.plan is not None:
            quantized.plan.save(arguments.plan)
        seconds = round(time.monotonic() - started, 1)
        if arguments.report is not None:
            outcome = Outcome(
                file=arguments.output.name,
                bytes=len(content),
                float_bytes=bytes_on_disk(arguments.model),
                target=target,
                seconds=seconds,
                **(comparison or {}),
            )
            quantized.report.save(arguments.report, outcome)
        if arguments.model_explorer is not None:
            measures = report_node_data(quantized.report)
            overlay(arguments.model_explorer, measures, arguments.output)
    result = {
        "output": str(arguments.output),
        "bytes": len(content),
        "float_model_bytes": bytes_on_disk(arguments.model),
        "target": target,
        "io": arguments.io,
        "layout": arguments.layout if target == "packed_int4" else None,
        "input_shapes": fixed,
        "dynamic_batch": arguments.dynamic_batch,
        "plan": None if arguments.plan is None else str(arguments.plan),
        "report_directory": None if arguments.report is None else str(arguments.report),
        "report": quantized.report.to_dict(),
        "comparison": comparison,
        "seconds": seconds,
    }
    if arguments.json:
        print_json(result)
    else:
        print(quantized.report.render())
        compared_on = arguments.data or arguments.calibration
        _print_result(result, arguments.model, not_compared, compared_on)


def _step(description: str, items: Sequence[Any]) -> Iterator[Any]:
    """Show how far a long step is; it gives back what the one before and its own parts leave."""
    give_memory_back()
    given_back = time.monotonic()
    for item in track(description, items):
        yield item
        if time.monotonic() - given_back > SECONDS_BETWEEN_TRIMS:
            give_heap_back()
            given_back = time.monotonic()


def _with_labels_that_fit(
    images: ImageSet, model: keras.Model | tf_keras.Model, path: Path
) -> ImageSet:
    """Leave out what cannot be labels of the model: a number that a file's name begins with, say.

    Calibration needs none; of images to evaluate on, such labels are refused.
    """
    shape = tuple(model.outputs[0].shape)
    if images.labels is None or len(shape) != 2 or images.labels.max() < shape[1]:
        return images
    message(
        f"The labels of {path} are not used: they go up to {images.labels.max()}, and the model "
        f"has the classes 0 to {shape[1] - 1}."
    )
    return replace(images, labels=None)


def _prepared(
    model: keras.Model | tf_keras.Model,
    images: Mapping[str, Images] | None,
    statistics: CalibrationStatistics | None,
    converted_beside: Callable[[LoweredModel], FloatFiles],
) -> tuple[LoweredModel, FloatFiles, CalibrationStatistics]:
    """Lower a model, begin to convert it in float, and gather its statistics if none are given."""
    from tflite_ptq4.keras_side.calibration.array_calibration import traced_observation
    from tflite_ptq4.keras_side.calibration.model_observer import ModelObserver
    from tflite_ptq4.keras_side.lowering import lower

    if statistics is not None:
        lowered = lower(model)
        return lowered, converted_beside(lowered), statistics
    observer = ModelObserver(model)
    observe = traced_observation(observer, images)
    # Both take Python's lock, tracing and converting; running the graph does not.
    float_files = converted_beside(observer.lowered)
    observe(partial(_step, "Calibrating"))
    return observer.lowered, float_files, observer.statistics


def _converted_beside(
    beside: SecondThread,
    shapes: Mapping[str, tuple[int, ...]],
    config: QuantizationConfig,
    lowered: LoweredModel,
) -> FloatFiles:
    from tflite_ptq4.keras_side.float_files import FloatFiles

    float_files = FloatFiles(lowered)
    float_files.start(beside, shapes, layers_to_quantize(lowered.graph, config))
    return float_files


def _left_out(config: QuantizationConfig) -> str:
    """Say which choices of the recipe have no effect for lack of images."""
    kept = config.without_images()
    changed = {f.name for f in fields(config) if getattr(config, f.name) != getattr(kept, f.name)}
    left_out = sorted(changed - {"bias_correction"})
    return (
        "No images were given (--calibration), so the recipe's corrections that need them are left "
        f"out: {', '.join(left_out)}."
        + " The bias correction takes their place."
        * ("bias_correction" in changed)
    )


def _compared(
    model: keras.Model | tf_keras.Model,
    arguments: argparse.Namespace,
    files: Mapping[str, tuple[QuantizedModel, bytes]],
    images: ImageSet,
) -> dict[str, Any]:
    """Run files in LiteRT and compare the first with the float model, by the names of `Outcome`."""
    path = arguments.model
    models = [keras_model(model, name=str(path), size=bytes_on_disk(path))]
    with native_stderr_held_back():
        models += [tflite_model(content, name=name) for name, (_, content) in files.items()]
    reference, *rows = evaluate_models(models, images, progress=track)
    points = tuple(
        (quantized.report.average_weight_bits, row.top1, row.name)
        for (quantized, _), row in zip(files.values(), rows, strict=True)
    )
    return {
        "images": len(images),
        "agreement": rows[0].agreement,
        "sqnr_db": rows[0].sqnr_db,
        "top1": rows[0].top1,
        "float_top1": reference.top1,
        "accuracy_over_bits": points if arguments.accuracy_over_bits else (),
    }


def _print_result(
    result: dict[str, Any], model: Path, not_compared: str, compared_on: Path | None
) -> None:
    print(
        f"Wrote {result['output']}: {result['bytes']:,} bytes, target {result['target']}, "
        f"{result['io']} input and output ({model}: {result['float_model_bytes']:,} bytes)."
    )
    if result["plan"] is not None:
        print(f"Wrote {result['plan']}: the plan.")
    if result["report_directory"] is not None:
        page = Path(result["report_directory"]) / "report.html"
        print(f"Wrote {page}: the report, to open in a browser, and report.json beside it.")
    comparison = result["comparison"]
    if comparison is None:
        print(f"{not_compared}, so the file was not compared with the float model.")
    else:
        print(
            f"On the {comparison['images']} images of {compared_on}, run in LiteRT: agreement "
            f"with the float model {comparison['agreement']:.1%}, "
            f"SQNR {decibels(comparison['sqnr_db'])}."
        )
    print(f"Took {result['seconds']} s.")
