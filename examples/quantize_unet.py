"""Quantize a U-Net: a network that gives an image, with skip connections and upsampling.

    python examples/quantize_unet.py --output unet.tflite

It learns to find discs among squares in noise, half a minute on a laptop. The measure is the
intersection over union of the masks, of the float network and of the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tflite_ptq4 import CalibrationCallback, QuantizationConfig, quantize_model
from tflite_ptq4.evaluation.runnable_models import predict_tflite

SIZE = 32


def discs_and_squares(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images [count, SIZE, SIZE, 1] and the masks of their discs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images = rng.normal(0, 0.3, (count, SIZE, SIZE, 1))
    masks = np.zeros_like(images)
    for image, mask in zip(images, masks, strict=True):
        for is_disc in (False, False, True, True):
            top, left, radius = rng.integers((4, 4, 3), (SIZE - 4, SIZE - 4, 7))
            down, right = abs(rows - top), abs(columns - left)
            shape = np.hypot(down, right) if is_disc else np.maximum(down, right)
            image[shape <= radius] = 1 + 0.3 * image[shape <= radius]
            mask[shape <= radius] = is_disc
    return images.astype(np.float32), masks.astype(np.float32)


def unet(width: int) -> keras.Model:
    """Return a U-Net of three levels: image to the logits of a mask."""

    def convolved(x, channels: int):
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    image = keras.Input((SIZE, SIZE, 1), name="image")
    high = convolved(image, width)
    middle = convolved(layers.MaxPooling2D()(high), 2 * width)
    low = convolved(layers.MaxPooling2D()(middle), 4 * width)
    up = layers.Concatenate()([layers.UpSampling2D()(low), middle])
    up = layers.Concatenate()([layers.UpSampling2D()(convolved(up, 2 * width)), high])
    return keras.Model(image, layers.Conv2D(1, 1, name="mask")(convolved(up, width)))


def intersection_over_union(logits: np.ndarray, masks: np.ndarray) -> float:
    """Return the share of what either marks that both mark."""
    found, wanted = logits > 0, masks > 0
    return float((found & wanted).sum() / (found | wanted).sum())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, calibrate, quantize, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("unet.tflite"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=1000, help="to train on")
    parser.add_argument("--width", type=int, default=12, help="channels of the first level")
    arguments = parser.parse_args(argv)

    images, masks = discs_and_squares(arguments.images, seed=1)
    keras.utils.set_random_seed(0)
    model = unet(arguments.width)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(images, masks, epochs=arguments.epochs, batch_size=16, verbose=2)

    calibration = CalibrationCallback(model)
    model.predict(images[:64], callbacks=[calibration], verbose=0)
    config = QuantizationConfig.preset("w4a8")
    quantized = quantize_model(model, calibration.statistics, config, images=images[:64])
    print(quantized.report.render())
    quantized.save(arguments.output)

    images, masks = discs_and_squares(100, seed=2)
    found = {
        "float network": model.predict(images, verbose=0),
        "4-bit file": predict_tflite(arguments.output, images),
    }
    for name, logits in found.items():
        print(f"{name:14} {intersection_over_union(logits, masks):.3f} intersection over union")


if __name__ == "__main__":
    main()
