"""Time and size of our files against TFLiteConverter's own full-integer file of the same network.

    python examples/benchmark_latency.py MODEL.keras --data PATH --crop 224 --mean 127 --std 128

Converts the network once with TFLiteConverter (representative images, int8 operators, float input
and output, a batch of one) and in four ways with tflite-ptq4, and times all files in LiteRT with
one thread. Each round runs every file once, in an order of its own, and a file's ratio is taken
round by round, so that a slow moment of the machine meets all of them. TFLiteConverter's file is
there twice: how far the ratio of `again` is from 1 is chance. Where memory comes to lie changes
times too, so the rounds are repeated in new processes, which have not loaded TensorFlow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.cli.console import message, print_json, print_table, results_only_on_stdout
from tflite_ptq4.cli.files import images_from
from tflite_ptq4.cli.quiet_tensorflow import import_tensorflow, native_stderr_held_back
from tflite_ptq4.progress import track

if TYPE_CHECKING:
    import keras

REFERENCE = "TFLiteConverter int8"
AGAIN = f"{REFERENCE}, again"
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
    parser.add_argument("--rounds", type=int, default=300, help="in each process (300)")
    parser.add_argument("--warm-up", type=int, default=20, help="rounds before these (20)")
    parser.add_argument("--processes", type=int, default=3, help="one after the other (3)")
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
            progress=partial(track, f"Quantizing {preset}"),
        )
        for preset in dict.fromkeys(preset for preset, _, _ in OURS.values())
    }
    return {
        name: quantized[preset].to_tflite(target, layout=layout)
        for name, (preset, target, layout) in OURS.items()
    }


def milliseconds(files: list[bytes], image: np.ndarray, *, rounds: int, seed: int) -> np.ndarray:
    """Run each file once per round in LiteRT: float64 [rounds, files]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = [Interpreter(model_content=content, num_threads=1) for content in files]
    with native_stderr_held_back():
        for interpreter in interpreters:
            interpreter.allocate_tensors()
    for interpreter in interpreters:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
    rng = np.random.default_rng(seed)
    taken = np.empty((rounds, len(files)))
    for times in taken:
        # In a fixed order, each file would meet the caches as one and the same other left them.
        for place in rng.permutation(len(files)):
            start = time.perf_counter_ns()
            interpreters[place].invoke()
            times[place] = (time.perf_counter_ns() - start) / 1e6
    return taken


def measure(
    files: list[bytes], image: np.ndarray, *, rounds: int, warm_up: int, processes: int
) -> np.ndarray:
    """Return milliseconds, float64 [processes, rounds, files], of one process after the other."""
    spawned = multiprocessing.get_context("spawn")
    taken = []
    for process in range(processes):
        message(f"Timing {len(files)} files, process {process + 1} of {processes}")
        with ProcessPoolExecutor(max_workers=1, mp_context=spawned) as pool:
            run = pool.submit(milliseconds, files, image, rounds=warm_up + rounds, seed=process)
            taken.append(run.result()[warm_up:])
    return np.asarray(taken)


def rows(files: dict[str, bytes], taken: np.ndarray) -> list[dict[str, Any]]:
    """Summarise milliseconds [processes, rounds, files], the first file being the reference."""
    reference_bytes = len(next(iter(files.values())))
    ratios = taken / taken[..., :1]
    found = []
    for place, (name, content) in enumerate(files.items()):
        times, ratio = taken[..., place], ratios[..., place]
        by_process = np.median(ratio, axis=1)
        found.append(
            {
                "file": name,
                "bytes": len(content),
                "times_smaller": reference_bytes / len(content),
                "median_ms": np.median(times),
                "minimum_ms": times.min(),
                "p90_ms": np.quantile(times, 0.9),
                "ratio": np.median(ratio),
                "ratio_p10_to_p90": np.quantile(ratio, (0.1, 0.9)),
                "ratio_by_process": by_process,
            }
        )
    return found


def print_rows(title: str, found: list[dict[str, Any]]) -> None:
    def span(values: np.ndarray) -> str:
        return f"{min(values):.3f} to {max(values):.3f}"

    print_table(
        title,
        (
            "file",
            "bytes",
            "times smaller",
            "median ms",
            "minimum",
            "p90",
            "ratio",
            "p10 to p90",
            "process medians",
        ),
        [
            (
                row["file"],
                f"{row['bytes']:,}",
                f"{row['times_smaller']:.3f}",
                *(f"{row[key]:.3f}" for key in ("median_ms", "minimum_ms", "p90_ms", "ratio")),
                span(row["ratio_p10_to_p90"]),
                span(row["ratio_by_process"]),
            )
            for row in found
        ],
    )


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    with results_only_on_stdout():
        import_tensorflow()
        from tflite_ptq4.keras_side.load_model import input_shapes, load_model

        model = load_model(chosen.model)
        images = images_from(chosen.data, chosen, input_shapes(model)).images[0][:]
        message("Converting with TFLiteConverter")
        with native_stderr_held_back():
            reference = converted_by_tensorflow(model, images)
        files = {REFERENCE: reference, AGAIN: reference, **converted_by_us(model, images)}
    if chosen.keep is not None:
        chosen.keep.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            stem = name.replace(",", "").replace(" ", "-")
            write_bytes(chosen.keep / f"{stem}.tflite", content)
    taken = measure(
        list(files.values()),
        images[0],
        rounds=chosen.rounds,
        warm_up=chosen.warm_up,
        processes=chosen.processes,
    )
    found = rows(files, taken)
    if chosen.json:
        print_json({"model": str(chosen.model), "rounds": taken[..., 0].size, "files": found})
    else:
        print_rows(f"{chosen.model}: one thread, {taken[..., 0].size} rounds", found)


if __name__ == "__main__":
    main()
