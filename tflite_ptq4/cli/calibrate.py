"""`tflite-ptq4 calibrate`: a Keras model and images in, a file of statistics out."""

from __future__ import annotations

import argparse
from functools import partial

from tflite_ptq4.cli.console import message, print_json, results_only_on_stdout
from tflite_ptq4.cli.files import check_images, check_output, images_from
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.keras_side.load_model import check_model_file, input_shapes, load_model
from tflite_ptq4.progress import track


def run(arguments: argparse.Namespace) -> None:
    """Gather the statistics of every tensor to be quantized, and write them."""
    check_model_file(arguments.model, arguments.framework)
    check_images(arguments.calibration)
    check_output(arguments.output, inputs=(arguments.model, arguments.calibration))
    message(f"Loading {arguments.model}")
    with results_only_on_stdout():
        import_tensorflow()
        model = load_model(arguments.model, arguments.framework)
        shapes = input_shapes(model)
        images = images_from(arguments.calibration, arguments, shapes, arguments.samples)
        from tflite_ptq4.keras_side.calibration.array_calibration import calibrate

        statistics = calibrate(model, images.named(shapes), progress=partial(track, "Calibrating"))
    statistics.save(arguments.output)
    size = arguments.output.stat().st_size
    if arguments.json:
        print_json(
            {
                "output": str(arguments.output),
                "bytes": size,
                "images": statistics.images,
                "tensors": len(statistics),
                "fingerprint": statistics.fingerprint,
            }
        )
    else:
        print(
            f"Wrote {arguments.output} ({size:,} bytes): statistics of {len(statistics)} tensors "
            f"over {statistics.images} images."
        )
