"""Choose bits under a size budget: the most accurate file that is not larger than it may be.

    python examples/size_budget.py --bytes 50000 --output digits.tflite

`weight_bit_budget` is the bits that a weight may have on average. Layers get 4, and 8 where
rounding costs the outputs most, as long as the average allows it. So a file grows with the budget,
and the largest budget whose file fits is the one to take. Ten seconds on a laptop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
from digits import load_digits
from keras import layers

from tflite_ptq4 import CalibrationCallback, QuantizationConfig, quantize_model
from tflite_ptq4.evaluation.runnable_models import predict_tflite
from tflite_ptq4.numerics.closeness import agreement, sqnr_db

AVERAGE_BITS = (8.0, 7.0, 6.0, 5.5, 5.0, 4.5, 4.25, 4.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then quantize with less and less until the file fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=50_000, help="that the file may have")
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=int, default=32, help="channels of the first layer")
    arguments = parser.parse_args(argv)

    train_images, train_labels, test_images, _ = load_digits()
    keras.utils.set_random_seed(0)
    width = arguments.width
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.Conv2D(2 * width, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
            layers.Conv2D(2 * width, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(train_images, train_labels, epochs=arguments.epochs, verbose=2)

    # Statistics are gathered once: they serve every choice of bits.
    images = train_images[:64]
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    wanted = model.predict(test_images, verbose=0)
    for bits in AVERAGE_BITS:
        config = QuantizationConfig.preset("w4a8", weight_bit_budget=bits)
        quantized = quantize_model(model, calibration.statistics, config, images=images)
        content = quantized.to_tflite(target="packed_int4", layout="smallest")
        outputs = predict_tflite(content, test_images)
        print(
            f"{bits:.2f} bits on average: {len(content):,} bytes, "
            f"agreement {agreement(wanted, outputs):.1%}, SQNR {sqnr_db(wanted, outputs):.1f} dB"
        )
        if len(content) <= arguments.bytes:
            arguments.output.write_bytes(content)
            print(f"{arguments.output} fits into {arguments.bytes:,} bytes.")
            return
    raise SystemExit(f"Not even 4 bits a weight fit into {arguments.bytes:,} bytes.")


if __name__ == "__main__":
    main()
