"""Every network of a test bed through calibration, two presets and two targets, as one table.

    python examples/network_matrix.py                      # all of them, half an hour
    python examples/network_matrix.py MobileNetV2 UNet     # some of them

After each network its figures go into docs/networks.json, and docs/networks.md is written anew from
that file: networks that were not measured this time keep the figures that they had.

The networks have random weights and BatchNormalization statistics from one pass over random images,
at the smallest input size that they take. So the table shows that a network passes, what of it is
held at 4 bits, and how close the file is to the simulated Keras model; it shows no accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DOCS = Path(__file__).resolve().parents[1] / "docs"
PRESETS = ("w4a8", "w4a4")
TARGETS = ("int8_container", "packed_int4")
IMAGES = 16
MOST_DB = 99.0  # what a file that computes the very same is given

# Smallest input sizes of keras.applications with include_top=True and weights=None.
APPLICATIONS = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
}


def unet():
    """Two levels down and up, with skip concatenations."""
    import keras
    from keras import layers

    def block(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((64, 64, 3))
    first = block(inputs, 16)
    second = block(layers.MaxPooling2D()(first), 32)
    x = block(layers.MaxPooling2D()(second), 64)
    for skip, filters in ((second, 32), (first, 16)):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x), name="unet")


def ssd_head():
    """Two feature maps, boxes and classes of each: four outputs."""
    import keras
    from keras import layers

    inputs = keras.Input((96, 96, 3))
    x, outputs = inputs, {}
    for level, filters in enumerate((16, 32, 64, 64)):
        x = layers.SeparableConv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        if level >= 2:
            outputs[f"boxes_{level}"] = layers.Conv2D(12, 3, padding="same")(x)
            outputs[f"classes_{level}"] = layers.Conv2D(9, 3, padding="same")(x)
    return keras.Model(inputs, outputs, name="ssd_head")


def super_resolution():
    """ESPCN: convolutions at low resolution, then depth-to-space."""
    import keras
    from keras import layers, ops

    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 5, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = ops.depth_to_space(layers.Conv2D(12, 3, padding="same")(x), 2)
    return keras.Model(inputs, x, name="super_resolution")


def keyword_spotting():
    """One-dimensional convolutions over 49 frames of 40 features."""
    import keras
    from keras import layers

    inputs = keras.Input((49, 40))
    x = inputs
    for filters, stride in ((32, 1), (48, 2), (64, 2)):
        x = layers.Conv1D(filters, 9, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.SeparableConv1D(filters, 9, padding="same", activation="relu")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x), name="keyword_spotting")


OTHERS = {
    "UNet": unet,
    "SSDHead": ssd_head,
    "SuperResolution": super_resolution,
    "KeywordSpotting": keyword_spotting,
}


def build(name: str):
    """The network of that name, random weights from a fixed seed."""
    import keras

    keras.utils.set_random_seed(0)
    if name in OTHERS:
        return OTHERS[name]()
    size = APPLICATIONS[name]
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None
    )


def random_images(model, count: int):
    """Smooth random images in the range that the network takes, float32 [count, ...]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = model.input_shape[1:]
    coarse = rng.normal(size=(count, *(max(2, size // 8) for size in shape[:-1]), shape[-1]))
    images = coarse
    for axis, size in enumerate(shape[:-1], start=1):
        places = np.linspace(0, images.shape[axis] - 1, size).round().astype(int)
        images = np.take(images, places, axis=axis)
    images = images + 0.3 * rng.normal(size=images.shape)
    scales_inside = any(
        type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers
    )
    return (images * 50 + 128 if scales_inside else images).astype(np.float32)


def settle_batch_norm(model, images) -> None:
    """Give every BatchNormalization the mean and variance of one pass."""
    import keras

    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)


def measure(name: str) -> list[dict]:
    """One row for each preset and target."""
    from tflite_ptq4 import Ptq4Error, QuantizationConfig, calibrate, quantize_model
    from tflite_ptq4.numerics.closeness import sqnr_db

    model = build(name)
    images = random_images(model, IMAGES)
    settle_batch_norm(model, images)
    statistics = calibrate(model, images, batch_size=8)
    rows = []
    for preset in PRESETS:
        config = QuantizationConfig.preset(preset)
        quantized = quantize_model(model, statistics, config, images=images)
        simulated = flat(quantized.simulated_model.predict(images, verbose=0))
        facts = {
            "at_4_bits": share_at_4_bits(quantized),
            "in_float": sorted(
                {f"{row.layer_type}: {row.reason}" for row in quantized.report.in_float}
            ),
            "layers_in_float": len(quantized.report.in_float),
            "layers": len(quantized.plan.layers),
        }
        for target in TARGETS:
            row = {"network": name, "preset": preset, "target": target, **facts}
            try:
                data = quantized.to_tflite(target)
                row["bytes"] = len(data)
                for runtime in ("litert", "tensorflow"):
                    row[runtime] = min(MOST_DB, sqnr_db(simulated, run(data, images, runtime)))
            except Ptq4Error as error:
                row["refused"] = str(error)
            rows.append(row)
    return rows


def share_at_4_bits(quantized) -> float:
    """Share of the weights that have at most 4 bits."""
    rows = [row for row in quantized.report.rows if row.weights]
    held = sum(row.weights for row in rows if row.quantized and row.weight_bits <= 4)
    return held / sum(row.weights for row in rows)


def flat(outputs):
    """All outputs of a model side by side, float64 [n, ...]."""
    import keras
    import numpy as np

    leaves = [np.asarray(leaf, np.float64) for leaf in keras.tree.flatten(outputs)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def run(data: bytes, images, runtime: str):
    """Run a file on every image in one of the two interpreters, its outputs side by side."""
    import warnings

    import numpy as np

    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tf.lite.Interpreter announces its end
        interpreter = Interpreter(model_content=data, num_threads=2)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        parts = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        outputs.append(np.concatenate([part.reshape(-1) for part in parts]))
    return np.asarray(outputs, np.float64)


def render(rows: list[dict]) -> str:
    """The table as Markdown."""
    lines = [
        "| network | preset | target | KiB | LiteRT dB | TensorFlow dB | weights at 4 bits | "
        "layers in float |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        head = f"| {row['network']} | {row['preset']} | {row['target']} "
        if "refused" in row:
            lines.append(f"{head}| refused: {row['refused']} |||||")
            continue
        lines.append(
            f"{head}| {row['bytes'] / 1024:.0f} | {row['litert']:.1f} | {row['tensorflow']:.1f} | "
            f"{row['at_4_bits']:.0%} | {row['layers_in_float']} of {row['layers']} |"
        )
        if row["in_float"]:
            reasons[row["network"]] = row["in_float"]
    lines += ["", "What stays in float, and why:", ""]
    lines += [f"- {network}: {'; '.join(found)}" for network, found in reasons.items()]
    return "\n".join(lines) + "\n"


def update_page(rows: list[dict], folder: Path) -> None:
    """Put the rows of one network among those of the others, and write the page of all."""
    from tflite_ptq4.atomic_write import write_bytes

    path = folder / "networks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[rows[0]["network"]] = rows
    ordered = {name: known[name] for name in (*APPLICATIONS, *OTHERS) if name in known}
    folder.mkdir(exist_ok=True)
    write_bytes(path, (json.dumps(ordered, indent=1) + "\n").encode())
    page = (
        "# Networks\n\nMade by `python examples/network_matrix.py`: random weights, smallest input "
        "size, outputs of the file against the simulated Keras model in decibels; 99 stands for "
        "equal outputs.\n\n" + render([row for found in ordered.values() for row in found])
    )
    write_bytes(folder / "networks.md", page.encode())


def main() -> int:
    """Measure each network in a process of its own, so that memory does not add up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="names; all of them where none is given")
    parser.add_argument("--json", action="store_true", help="one network: print its rows as JSON")
    arguments = parser.parse_args()
    names = arguments.networks or [*APPLICATIONS, *OTHERS]
    if arguments.json:
        print("ROWS " + json.dumps([row for name in names for row in measure(name)]))
        return 0
    failed = 0
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, name, "--json"], capture_output=True, text=True, check=False
        )
        found = [line[5:] for line in done.stdout.splitlines() if line.startswith("ROWS ")]
        if not found:
            failed += 1
            print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        rows = json.loads(found[0])
        update_page(rows, DOCS)
        print(render(rows), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
