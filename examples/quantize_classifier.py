"""Quantize a classifier: train it, quantize it to 4-bit weights, and see what that costs.

    python examples/quantize_classifier.py --output digits.tflite

A quarter of a minute on a laptop. The digits ship inside scikit-learn, whose files are read and
which is not imported (`pip install --no-deps scikit-learn`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
from digits import load_digits
from keras import layers

from tflite_ptq4 import CalibrationCallback, QuantizationConfig, quantize_model
from tflite_ptq4.evaluation.model_evaluation import top1
from tflite_ptq4.evaluation.runnable_models import predict_tflite


def main(argv: Sequence[str] | None = None) -> None:
    """Train, calibrate, quantize, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args(argv)

    train_images, train_labels, test_images, test_labels = load_digits()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(64, 1, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(train_images, train_labels, epochs=arguments.epochs, verbose=2)

    # Calibration needs images without labels, and a few dozen of them.
    images = train_images[:128]
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    config = QuantizationConfig.preset("w4a8")
    quantized = quantize_model(model, calibration.statistics, config, images=images)
    print(quantized.report.render())

    quantized.save(arguments.output, target="packed_int4", layout="smallest")
    file_outputs = predict_tflite(arguments.output, test_images)
    print(f"float network  {top1(model.predict(test_images, verbose=0), test_labels):.1%}")
    print(f"4-bit file     {top1(file_outputs, test_labels):.1%}")
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
