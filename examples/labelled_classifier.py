"""What the examples that measure accuracy are given: a classifier, and labelled images for it."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tflite_ptq4.cli.console import message
from tflite_ptq4.cli.files import images_from
from tflite_ptq4.cli.shared_arguments import add_image_preparation
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.image_data import ImageSet

if TYPE_CHECKING:
    import keras


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that such examples share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--calibration", type=Path, required=True, metavar="PATH", help="images")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="labelled images")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_image_preparation(parser, samples=64)
    return parser


def load(
    parser: argparse.ArgumentParser, chosen: argparse.Namespace, data_samples: int | None = None
) -> tuple[keras.Model, np.ndarray, ImageSet]:
    """Load the model, and read the images.

    Args:
        parser: tells what cannot be used.
        chosen: the arguments; `samples` images are read of `calibration`.
        data_samples: images of `data`, None for all.

    Returns:
        The model; float32 [n, H, W, C] to calibrate on; images with labels to measure on.
    """
    import_tensorflow()
    from tflite_ptq4.keras_side.load_model import input_shapes, load_model

    message(f"Loading {chosen.model}")
    model = load_model(chosen.model)
    read = partial(images_from, arguments=chosen, input_shapes=input_shapes(model))
    calibration = read(chosen.calibration, samples=chosen.samples).images[0][:]
    data = read(chosen.data, samples=data_samples)
    if data.labels is None:
        parser.error(f"{chosen.data} must have labels: accuracy is what is compared.")
    return model, calibration, data
