"""Time and size of our files against TFLiteConverter's own full-integer file of the same network.

    python examples/benchmark_latency.py MODEL.keras --data PATH --crop 224 --mean 127 --std 128

Converts the network once with TFLiteConverter (representative images, int8 operators, float input
and output, a batch of one) and in four ways with tflite-ptq4, and times all files in LiteRT with
one thread, as `tflite-ptq4 benchmark` does.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.benchmark.comparison import Comparison
from tflite_ptq4.benchmark.effort import HostEffort
from tflite_ptq4.benchmark.host import measure_on_host
from tflite_ptq4.cli.benchmark import print_comparison
from tflite_ptq4.cli.console import message, print_json, print_table, results_only_on_stdout
from tflite_ptq4.cli.files import images_from
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.progress import track

if TYPE_CHECKING:
    import keras

REFERENCE = "TFLiteConverter int8"
# Name of the file: preset, target, layout.
OURS = {
    "int8_container w8a8": ("w8a8", "int8_container", "fast"),
    "int8_container w4a8": ("w4a8", "int8_container", "fast"),
    "packed_int4 w4a8, fast": ("w4a8", "packed_int4", "fast"),
    "packed_int4 w4a8, smallest": ("w4a8", "packed_int4", "smallest"),
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="images")
    parser.add_argument("--samples", type=int, default=64, help="how many images (64)")
    for option in ("--resize", "--crop"):
        parser.add_argument(option, type=int)
    for option, default in (("--mean", 0.0), ("--std", 1.0)):
        parser.add_argument(option, type=float, nargs="+", default=default)
    parser.add_argument("--rounds", type=int, default=20, help="in each process (20)")
    parser.add_argument("--processes", type=int, default=6, help="one after the other (6)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the files there")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args(argv)


def converted_by_tensorflow(model: keras.Model, images: np.ndarray) -> bytes:
    """Return TFLiteConverter's int8 file, calibrated on float32 images [n, H, W, C]."""
    import keras
    import tensorflow as tf

    # A dynamic batch would leave operators in the file that compute shapes.
    one = keras.Input(model.inputs[0].shape[1:], batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(one, model(one)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        # It asks for ranges of the input, which the representative images give.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs")
        return converter.convert()


def converted_by_us(model: keras.Model, images: np.ndarray) -> dict[str, bytes]:
    """Return the files of `OURS`, calibrated on the same images."""
    from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model

    statistics = calibrate(model, images, progress=partial(track, "Calibrating"))
    quantized = {
        preset: quantize_model(
            model,
            statistics,
            QuantizationConfig.preset(preset),
            images=images,
            progress=track,
        )
        for preset in dict.fromkeys(preset for preset, _, _ in OURS.values())
    }
    return {
        name: quantized[preset].to_tflite(target, layout=layout)
        for name, (preset, target, layout) in OURS.items()
    }


def measured(files: dict[str, bytes], folder: Path, effort: HostEffort) -> Comparison:
    """Write files into a folder and time them there, the first being the reference."""
    paths = []
    for name, content in files.items():
        paths.append(folder / f"{name.replace(',', '').replace(' ', '-')}.tflite")
        write_bytes(paths[-1], content)
    return measure_on_host(paths, threads=1, delegate="xnnpack", effort=effort, progress=track)


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    with results_only_on_stdout():
        import_tensorflow()
        from tflite_ptq4.keras_side.load_model import input_shapes, load_model

        model = load_model(chosen.model)
        images = images_from(chosen.data, chosen, input_shapes(model), chosen.samples).images[0][:]
        message("Converting with TFLiteConverter")
        with native_stderr_held_back():
            reference = converted_by_tensorflow(model, images)
        files = {REFERENCE: reference, **converted_by_us(model, images)}
    effort = HostEffort(processes=chosen.processes, rounds=chosen.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.keep is not None:
            chosen.keep.mkdir(parents=True, exist_ok=True)
        found = measured(files, chosen.keep or Path(temporary), effort)
    smaller = [found.rows[0].bytes / row.bytes for row in found.rows]
    if chosen.json:
        result = found.to_dict()
        print_json({"model": str(chosen.model), **result, "times_smaller": smaller})
        return
    print_comparison(found, "xnnpack")
    print_table(
        f"{chosen.model}: bytes",
        ("file", "bytes", "times smaller"),
        [
            (name, f"{row.bytes:,}", f"{ratio:.2f}")
            for name, row, ratio in zip(files, found.rows, smaller, strict=True)
        ],
    )
    for warning in found.warnings:
        message(f"Warning: {warning}")


if __name__ == "__main__":
    main()
