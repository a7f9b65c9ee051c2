"""From a TFMOT project: its own quantize_annotate and quantize_apply, with 4-bit weights.

    python examples/from_tfmot.py --output digits.tflite

What changes in such a project is the scheme. Its ranges come from calibration, so that the network
is quantized before any training; it can be fine-tuned as usual. Half a minute on a laptop. The
digits ship inside scikit-learn, whose files are read and which is not imported
(`pip install --no-deps scikit-learn`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import tensorflow_model_optimization as tfmot
import tf_keras
from digits import load_digits
from tf_keras import layers

from tflite_ptq4 import QuantizationConfig, calibrate
from tflite_ptq4.evaluation.model_evaluation import top1
from tflite_ptq4.evaluation.runnable_models import predict_tflite
from tflite_ptq4.tfmot import Ptq4QuantizeScheme, to_quantized_model


def main(argv: Sequence[str] | None = None) -> None:
    """Train, annotate, quantize, fine-tune, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args(argv)

    train_images, train_labels, test_images, test_labels = load_digits()
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential(
        [
            layers.InputLayer((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(train_images, train_labels, epochs=arguments.epochs, verbose=2)

    # As in any project of TFMOT, but for the scheme.
    images = train_images[:128]
    statistics = calibrate(model, images)
    scheme = Ptq4QuantizeScheme(statistics, QuantizationConfig.preset("w4a8"), images)
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    with tfmot.quantization.keras.quantize_scope(Ptq4QuantizeScheme.custom_objects()):
        quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    before = quantized.predict(test_images, verbose=0)
    quantized.compile(tf_keras.optimizers.Adam(1e-4), loss)
    quantized.fit(train_images, train_labels, epochs=1, verbose=2)

    # To a file through this package, which writes the integers that were trained.
    to_quantized_model(quantized).save(arguments.output, target="packed_int4", layout="smallest")
    answers = {
        "float network": model.predict(test_images, verbose=0),
        "quantized": before,
        "fine-tuned": quantized.predict(test_images, verbose=0),
        "4-bit file": predict_tflite(arguments.output, test_images),
    }
    for name, logits in answers.items():
        print(f"{name:14} {top1(logits, test_labels):.1%}")
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
