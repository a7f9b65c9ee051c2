"""What calibration costs: `model.predict` alone against `model.predict` with `CalibrationCallback`.

    python examples/benchmark_calibration.py MODEL.keras --data PATH --crop 224 --mean 127 --std 128

Prints time and peak memory for each number of images. Every figure of memory and of the first run
comes from a process of its own; the later runs of both alternate in one process, so that a slow
moment of the machine meets both. On a busy machine the ratio of processor time says more. At most
64 different images are held, and repeated in turn: what grows with the number of images is then not
the images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4.cli.console import print_table
from tflite_ptq4.cli.tensorflow_start import import_tensorflow
from tflite_ptq4.image_data import load_images

if TYPE_CHECKING:
    import keras

DIFFERENT_IMAGES = 64
BATCH_SIZE = 32
PARTS = ("plain", "calibrated", "warm")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024], metavar="N")
    parser.add_argument("--repeats", type=int, default=5, help="runs after the first (5)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="images; random ones without")
    for option in ("--resize", "--crop"):
        parser.add_argument(option, type=int)
    for option, default in (("--mean", 0.0), ("--std", 1.0)):
        parser.add_argument(option, type=float, default=default)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def batches(model: keras.Model, count: int, chosen: argparse.Namespace) -> keras.utils.PyDataset:
    """Return a data set of `count` images that holds no more than `DIFFERENT_IMAGES`."""
    import keras

    from tflite_ptq4.keras_side.load_model import image_input_shape

    shape = image_input_shape(model)
    if chosen.data is None:
        rng = np.random.default_rng(0)
        different = rng.normal(size=(DIFFERENT_IMAGES, *shape)).astype(np.float32)
    else:
        different = load_images(
            chosen.data,
            samples=DIFFERENT_IMAGES,
            resize=chosen.resize,
            crop=chosen.crop,
            mean=chosen.mean,
            std=chosen.std,
            input_shape=shape,
        ).images[0][:]

    class Repeated(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-count // BATCH_SIZE)

        def __getitem__(self, batch: int) -> tuple[np.ndarray]:
            start = batch * BATCH_SIZE
            return (different[np.arange(start, min(start + BATCH_SIZE, count)) % len(different)],)

    return Repeated()


def measure(part: str, count: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure one part in this process: the first run of one of the two, or the later ones of both.

    The first run of calibration includes reading the model and tracing; loading the model from its
    file is in neither.
    """
    import_tensorflow()
    from tflite_ptq4.keras_side.calibration.callback import CalibrationCallback
    from tflite_ptq4.keras_side.load_model import load_model

    model = load_model(chosen.model)
    data = batches(model, count, chosen)

    def seconds(callbacks: list[keras.callbacks.Callback]) -> tuple[float, float]:
        """Return the time on the clock, and that of all threads on the processor."""
        start, start_cpu = time.perf_counter(), time.process_time()
        model.predict(data, callbacks=callbacks, verbose=0)
        return time.perf_counter() - start, time.process_time() - start_cpu

    if part == "warm":
        calibration = CalibrationCallback(model)
        both = {"plain": [], "calibrated": [calibration]}
        for callbacks in both.values():
            seconds(callbacks)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in both}
        for _ in range(chosen.repeats):
            for name, callbacks in both.items():
                times[name].append(seconds(callbacks))
        return times
    start = time.perf_counter()
    seconds([CalibrationCallback(model)] if part == "calibrated" else [])
    elapsed = time.perf_counter() - start
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": elapsed, "peak_bytes": peak}


def in_own_process(part: str, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--images", str(count)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit(run.returncode)
    return json.loads(run.stdout.splitlines()[-1])


def ratios(warm: dict[str, list[list[float]]], kind: int) -> str:
    """Return median and range of calibrated over plain, run by run: 0 clock, 1 processor."""
    runs = zip(warm["plain"], warm["calibrated"], strict=True)
    found = sorted(calibrated[kind] / plain[kind] for plain, calibrated in runs)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def row(count: int) -> tuple[str, ...]:
    plain, calibrated, warm = (in_own_process(part, count) for part in PARTS)
    plain_later, calibrated_later = (
        statistics.median(clock for clock, _ in warm[name]) for name in ("plain", "calibrated")
    )
    return (
        str(count),
        f"{plain['seconds']:.2f}",
        f"{calibrated['seconds']:.2f}",
        f"{plain_later:.2f}",
        f"{calibrated_later:.2f}",
        ratios(warm, 0),
        ratios(warm, 1),
        f"{plain['peak_bytes'] / 1e6:,.0f}",
        f"{calibrated['peak_bytes'] / 1e6:,.0f}",
    )


def main() -> None:
    chosen = arguments()
    if chosen.part is not None:
        (count,) = chosen.images
        print(json.dumps(measure(chosen.part, count, chosen)))
        return
    rows = []
    for count in chosen.images:
        print(f"Measuring {count} images", file=sys.stderr, flush=True)
        rows.append(row(count))
    print_table(
        f"{chosen.model}: predict alone, and with CalibrationCallback; median of {chosen.repeats}",
        (
            "images",
            "first s",
            "calibrated",
            "later s",
            "calibrated",
            "ratio (range)",
            "CPU ratio (range)",
            "peak MB",
            "calibrated",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
