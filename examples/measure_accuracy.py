"""The accuracy of files, measured on labelled images and held against figures of an earlier run.

    python examples/measure_accuracy.py MODEL.keras --calibration PATH --data PATH \
        --crop 224 --mean 127 --std 128              # compares with docs/results.json
    python examples/measure_accuracy.py ... --cases w4a8 w4a4    # a part of it
    python examples/measure_accuracy.py ... --update  # writes docs/results.json and docs/results.md

Quantizes the network in each way of `CASES` and runs the file in LiteRT on all images. What moved
against the reference by more than the images justify is named on stdout, and the exit code is 1;
input that cannot be used gives exit code 2. `accuracy_figures.py` says how much that is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import labelled_classifier
import numpy as np
from accuracy_cases import CASES, FLOAT, Case
from accuracy_figures import Figures, Results, compare, read_results
from accuracy_page import COLUMNS, cells, write_results

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.cli.console import (
    print_json,
    print_table,
    results_only_on_stdout,
)
from tflite_ptq4.evaluation.model_evaluation import top1
from tflite_ptq4.evaluation.runnable_models import predict_keras, predict_tflite
from tflite_ptq4.file_inspection import inspect_file
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.numerics.closeness import agreement, sqnr_db
from tflite_ptq4.progress import track

if TYPE_CHECKING:
    import keras

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "results.json"


def weight_bits(content: bytes) -> tuple[float | None, float | None]:
    """Return mean bits per weight of a file, without its first and last layer: needed, stored."""
    inner = inspect_file(content).weights[1:-1]
    if not inner:
        return None, None
    elements = [tensor.elements for tensor in inner]
    needed = np.average([tensor.effective_bits for tensor in inner], weights=elements)
    stored = np.average([tensor.stored_bits for tensor in inner], weights=elements)
    return round(float(needed), 4), round(float(stored), 4)


def sqnr_standard_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the standard error of an SQNR over N images, in decibels (module docstring).

    Args:
        reference, other: number arrays [N, classes].
    """
    noise = ((reference.astype(np.float64) - other) ** 2).sum(axis=1)
    if not noise.any():
        return 0.0
    return float(10 / np.log(10) * noise.std() / (noise.mean() * np.sqrt(len(noise))))


def answers(
    reference: np.ndarray, outputs: np.ndarray, labels: np.ndarray
) -> dict[str, float | None]:
    """Return the figures that come from the logits of N images, rounded as they are stored."""
    decibels = sqnr_db(reference, outputs)
    return {
        "top1": round(top1(outputs, labels), 6),
        "agreement": round(agreement(reference, outputs), 6),
        "sqnr_db": round(decibels, 4) if np.isfinite(decibels) else None,
        "sqnr_standard_error": round(sqnr_standard_error(reference, outputs), 4),
    }


def measure(
    model: keras.Model,
    float_bytes: int,
    calibration: np.ndarray,
    data: ImageSet,
    cases: Sequence[Case],
) -> dict[str, Figures]:
    """Measure the float network and the file of each case.

    Args:
        model: a classifier.
        float_bytes: length of its file.
        calibration: float32 [n, H, W, C].
        data: N images with labels.
        cases: the ways of quantizing.

    Returns:
        Name of the case -> figures, `FLOAT` first.
    """
    counts = {"images": len(data), "calibration_images": len(calibration)}
    reference = predict_keras(model, data.images, progress=partial(track, "Running the network"))
    found = {
        FLOAT: Figures(
            **counts,
            **answers(reference, reference, data.labels),
            weight_bits=32.0,
            stored_weight_bits=32.0,
            activation_bits=32.0,
            bytes=float_bytes,
        )
    }
    statistics = calibrate(model, calibration, progress=partial(track, "Calibrating"))
    by_config: dict[QuantizationConfig, list[Case]] = {}
    for case in cases:
        by_config.setdefault(case.config, []).append(case)
    for config, alike in by_config.items():
        quantized = quantize_model(model, statistics, config, images=calibration, progress=track)
        for case in alike:
            content = quantized.to_tflite(case.target, layout=case.layout)
            outputs = predict_tflite(
                content, data.images[0], progress=partial(track, f"Running {case.name}")
            )
            needed, stored = weight_bits(content)
            found[case.name] = Figures(
                **counts,
                **answers(reference, outputs, data.labels),
                weight_bits=needed,
                stored_weight_bits=stored,
                activation_bits=round(quantized.report.average_activation_bits, 4),
                bytes=len(content),
            )
    return {name: found[name] for name in (FLOAT, *(case.name for case in cases))}


def main(argv: list[str] | None = None) -> int:
    """Return 1 if anything moved and the reference is not to be updated, otherwise 0."""
    parser = labelled_classifier.parser_of((__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--reference",
        type=Path,
        default=REFERENCE,
        metavar="RESULTS.json",
        help="figures of an earlier run (docs/results.json); the page lies beside it",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="write the reference and its page")
    what.add_argument(
        "--cases", nargs="+", choices=CASES, metavar="NAME", help=f"some of: {'; '.join(CASES)}"
    )
    chosen = parser.parse_args(argv)
    cases = [CASES[name] for name in chosen.cases or CASES]
    network = chosen.model.stem
    results: Results = {}
    if chosen.reference.exists():
        try:
            results = read_results(chosen.reference)
        except ValueError as error:
            parser.error(str(error))
    if network not in results and not chosen.update:
        parser.error(f"{chosen.reference} has no figures of {network}: make them with --update.")
    with results_only_on_stdout():
        model, calibration, data = labelled_classifier.load(parser, chosen)
        found = measure(model, chosen.model.stat().st_size, calibration, data, cases)
        before = results.get(network, found)
        if chosen.cases:
            before = {name: before[name] for name in found if name in before}
        differences = compare(before, found)
        if chosen.update:
            write_results(chosen.reference, {**results, network: found})
    if chosen.json:
        figures = {name: asdict(case) for name, case in found.items()}
        print_json({"network": network, "cases": figures, "moved": differences})
    else:
        print_table(
            f"{network}: {len(data)} images, calibrated on {len(calibration)}",
            ("case", *COLUMNS),
            [(name, *cells(figures, found[FLOAT])) for name, figures in found.items()],
        )
        if network in results:
            print("\n".join(differences) or "Nothing moved.")
    return 1 if differences and not chosen.update else 0


if __name__ == "__main__":
    sys.exit(main())
