"""A folder of photographs to a file: quantize a network with no more than pictures at hand.

    python examples/quantize_photographs.py --folder photos/ --model my.keras --output my.tflite

Without a folder, photographs are taken that ship inside scikit-image and scikit-learn; without a
model, a MobileNetV2 with random weights, which takes half a minute.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from photographs import CALIBRATION, write_crops

from tflite_ptq4 import CalibrationCallback, QuantizationConfig, quantize_model


def main(argv: Sequence[str] | None = None) -> None:
    """Read the pictures, calibrate, quantize, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--output", type=Path, default=Path("photographs.tflite"))
    parser.add_argument("--size", type=int, default=160, help="of MobileNetV2's images")
    parser.add_argument("--width", type=float, default=1.0, help="of MobileNetV2's layers")
    arguments = parser.parse_args(argv)

    if arguments.model is not None:
        model = keras.saving.load_model(arguments.model)
    else:
        shape = (arguments.size, arguments.size, 3)
        model = keras.applications.MobileNetV2(shape, alpha=arguments.width, weights=None)

    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            write_crops(Path(made), CALIBRATION)
        pictures = keras.utils.image_dataset_from_directory(
            arguments.folder or made,
            labels=None,
            image_size=model.input_shape[1:3],
            crop_to_aspect_ratio=True,
            shuffle=False,
        )
        # What this family of networks is trained on; yours may expect something else.
        images = np.concatenate(list(pictures.as_numpy_iterator())) / 127.5 - 1

    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration])
    config = QuantizationConfig.preset("w4a8", effort="fast")
    quantized = quantize_model(model, calibration.statistics, config, images=images)
    print(quantized.report.render())
    quantized.save(arguments.output, target="packed_int4")
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
