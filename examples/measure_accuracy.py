"""The accuracy of files, measured on labelled images and held against figures of an earlier run.

    python examples/measure_accuracy.py MODEL.keras --calibration PATH --data PATH \
        --crop 224 --mean 127 --std 128              # compares with docs/results.json
    python examples/measure_accuracy.py ... --update  # writes docs/results.json and docs/results.md

Quantizes the network in each way of `CASES` and runs the file in LiteRT on all images. What moved
against the reference by more than the images justify is named on stdout, and the exit code is 1;
input that cannot be used gives exit code 2. Both runs see the same N images, so what counts is the
images on which they differ. Where a and a' are the shares of agreement with the float network,
the two files answer differently on at most

    D = (1 - a) + (1 - a') + 1 / N

of the images, the last term for the chance of a single one. A top-1 or an agreement moved, if its
difference exceeds three standard errors of a proportion with D in its numerator, `3 sqrt(D / N)`.

The noise of an SQNR is a mean over images, e_i = sum((float - file)^2) of the logits of image i.
Its standard error in decibels is `s = 10 / ln(10) std(e) / (mean(e) sqrt(N))`, and an SQNR moved,
if its difference exceeds `3 sqrt(s^2 + s'^2)`, as if the images were others. Bits and bytes owe
nothing to the labelled images: 0.05 bits count as moved, and 1 % of the bytes, as metadata grow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.cli.console import (
    message,
    number,
    percent,
    print_json,
    print_table,
    results_only_on_stdout,
)
from tflite_ptq4.cli.quiet_tensorflow import import_tensorflow
from tflite_ptq4.evaluation import top1
from tflite_ptq4.file_inspection import inspect_file
from tflite_ptq4.image_data import ImageSet, load_images
from tflite_ptq4.numerics.closeness import agreement, sqnr_db
from tflite_ptq4.progress import track
from tflite_ptq4.runnable_models import predict_keras, predict_tflite

if TYPE_CHECKING:
    import keras

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "results.json"
STANDARD_ERRORS = 3.0
BITS_MOVED = 0.05
BYTES_MOVED = 0.01


@dataclass(frozen=True)
class Case:
    """One way to make a file: a preset with some fields changed, and a target."""

    name: str
    preset: str
    target: str = "int8_container"
    layout: str = "fast"
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> QuantizationConfig:
        return QuantizationConfig.preset(self.preset, **self.changes)


W4A8 = Case("w4a8", "w4a8")
W4A4 = Case("w4a4", "w4a4")

PRESETS = [
    Case("w8a8", "w8a8"),
    W4A8,
    Case("w4a8, packed", "w4a8", target="packed_int4"),
    W4A4,
    Case("w4a4_strict", "w4a4_strict"),
    Case("paper_w4a4", "paper_w4a4", target="float_simulated"),
]
CORRECTIONS = [
    W4A8,
    Case("w4a8, refit_weights off", "w4a8", changes={"refit_weights": False}),
    Case("w4a8, weight_rounding nearest", "w4a8", changes={"weight_rounding": "nearest"}),
    Case("w4a8, output_matching off", "w4a8", changes={"output_matching": False}),
    Case("w4a8, weight_bit_budget off", "w4a8", changes={"weight_bit_budget": None}),
    W4A4,
    Case("w4a4, activation_bit_budget off", "w4a4", changes={"activation_bit_budget": None}),
    Case("w4a4, clipping_error tensor", "w4a4", changes={"clipping_error": "tensor"}),
]
CURVE = [
    Case("w4a8, 3 bits", "w4a8", changes={"weight_bits": 3, "weight_bit_budget": 3.0}),
    Case("w4a8, 3.5 bits", "w4a8", changes={"weight_bits": 3, "weight_bit_budget": 3.5}),
    Case("w4a8, 4 bits", "w4a8", changes={"weight_bit_budget": 4.0}),
    W4A8,
    Case("w4a8, 4.5 bits", "w4a8", changes={"weight_bit_budget": 4.5}),
    Case("w4a8, 5 bits", "w4a8", changes={"weight_bit_budget": 5.0}),
    Case("w4a8, 6 bits", "w4a8", changes={"weight_bit_budget": 6.0}),
]
CASES = {case.name: case for case in (*PRESETS, *CORRECTIONS, *CURVE)}
FLOAT = "float"  # the network itself stands among the cases under this name


@dataclass(frozen=True)
class Figures:
    """What is measured of one file.

    Attributes:
        images: number of labelled images.
        calibration_images: number of images that the network was quantized with.
        top1: share of images answered rightly.
        agreement: share of images answered as the float network does.
        sqnr_db: of the logits against the float network's, None where they are equal.
        sqnr_standard_error: its standard error in decibels.
        weight_bits: mean over the weights of the bits that their channel's stored values need.
        stored_weight_bits: mean over the weights of the bits that each takes in the file. Both
            without the first and the last layer, None for a network of fewer than three layers.
        activation_bits: mean over the elements of activations of the bits of their grid.
        bytes: length of the file.
    """

    images: int
    calibration_images: int
    top1: float
    agreement: float
    sqnr_db: float | None
    sqnr_standard_error: float
    weight_bits: float | None
    stored_weight_bits: float | None
    activation_bits: float
    bytes: int


# network -> case -> figures: what the reference file holds.
Results = dict[str, dict[str, Figures]]


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
    model: keras.Model, float_bytes: int, calibration: np.ndarray, data: ImageSet
) -> dict[str, Figures]:
    """Measure the float network and the file of each case.

    Args:
        model: a classifier.
        float_bytes: length of its file.
        calibration: float32 [n, H, W, C].
        data: N images with labels.

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
    for case in CASES.values():
        by_config.setdefault(case.config, []).append(case)
    for config, cases in by_config.items():
        quantized = quantize_model(model, statistics, config, images=calibration, progress=track)
        for case in cases:
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
    return {name: found[name] for name in (FLOAT, *CASES)}


def moved(before: Figures, now: Figures) -> list[str]:
    """Name each figure that moved by more than the images justify (module docstring)."""
    for count in ("images", "calibration_images"):
        was, is_now = getattr(before, count), getattr(now, count)
        if was != is_now:
            return [f"{count} from {was:,} to {is_now:,}: other images cannot be compared"]
    differing = 2 - before.agreement - now.agreement + 1 / now.images
    share = STANDARD_ERRORS * np.sqrt(differing / now.images)
    decibels = STANDARD_ERRORS * np.hypot(before.sqnr_standard_error, now.sqnr_standard_error)
    allowed = {
        "top1": share,
        "agreement": share,
        "sqnr_db": decibels,
        "weight_bits": BITS_MOVED,
        "stored_weight_bits": BITS_MOVED,
        "activation_bits": BITS_MOVED,
        "bytes": BYTES_MOVED * before.bytes,
    }
    found = []
    for name, most in allowed.items():
        was, is_now = getattr(before, name), getattr(now, name)
        one_is_missing = (was is None) != (is_now is None)
        if one_is_missing or (was is not None and abs(is_now - was) > most):
            found.append(
                f"{name} from {number(was, '{:.7g}')} to {number(is_now, '{:.7g}')}, "
                f"more than {most:.4g}"
            )
    return found


def compare(before: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[str]:
    """Name what moved in any case, and each case that only one of two runs has."""
    found = []
    for name in dict.fromkeys((*before, *now)):
        if name not in now:
            found.append(f"{name}: in the reference only")
        elif name not in before:
            found.append(f"{name}: not in the reference")
        else:
            found += [f"{name}: {what}" for what in moved(before[name], now[name])]
    return found


def read_results(path: Path) -> Results:
    """Read a reference file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    keys = {entry.name for entry in fields(Figures)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = {
            network: {name: Figures(**figures) for name, figures in cases.items()}
            for network, cases in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"The reference must be a JSON file, network -> case -> {', '.join(sorted(keys))}. "
            f"{path} is none ({error}): take it away, and make it anew with --update."
        ) from error
    return results


def write_results(path: Path, results: Results) -> None:
    """Write the reference file, and beside it the page that shows it."""
    results = dict(sorted(results.items()))
    plain = {
        network: {name: asdict(figures) for name, figures in cases.items()}
        for network, cases in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(path.with_suffix(".md"), page(results).encode())


COLUMNS = (
    "top-1",
    "to float",
    "agreement",
    "SQNR dB",
    "bits/weight",
    "stored",
    "bits/activation",
    "bytes",
)


def cells(figures: Figures, reference: Figures) -> tuple[str, ...]:
    """Return the figures of a case as text, in the order of `COLUMNS`."""
    return (
        percent(figures.top1),
        f"{100 * (figures.top1 - reference.top1):+.2f}",
        percent(figures.agreement),
        number(figures.sqnr_db, "{:.1f}"),
        number(figures.weight_bits, "{:.2f}"),
        number(figures.stored_weight_bits, "{:.2f}"),
        f"{figures.activation_bits:.2f}",
        f"{figures.bytes:,}",
    )


def page(results: Results) -> str:
    """Return the page of all networks, Markdown."""
    parts = [
        "# Results",
        "Made by `python examples/measure_accuracy.py MODEL.keras --calibration PATH --data PATH "
        "--update`, once for each network: files run in LiteRT on all images, from the figures in "
        "`results.json` beside this page. The same command without `--update` measures anew and "
        "names what moved.",
        "\n".join(
            f"- {network}: {cases[FLOAT].images:,} labelled images, calibrated on "
            f"{cases[FLOAT].calibration_images}; the float network's top-1 is "
            f"{percent(cases[FLOAT].top1)}, with a standard error of "
            f"{100 * proportion_error(cases[FLOAT]):.2f} points."
            for network, cases in results.items()
        ),
        '"To float" is in points of top-1. Bits per weight are those that the stored values of a '
        "channel need, beside those that a weight takes in the file, both without the first and "
        "the last layer. Layout `fast` packs 4-bit weights of 1x1 convolutions and Dense "
        "layers only, so a network of 3x3 convolutions gets no smaller by it. Agreement and SQNR "
        "of the logits are against the float network.",
        "## Presets and targets",
        markdown(results, PRESETS, "preset, target", preset_label),
        "## One correction switched off at a time",
        markdown(results, CORRECTIONS, "preset, what is off", lambda case: case.name),
        "## Bits of the weights",
        "The preset `w4a8` with another `weight_bit_budget`, below 4 with `weight_bits: 3`: layers "
        "beyond the usual bits have 8, those first that cost the outputs most. The first and the "
        "last layer keep 8.",
        markdown(
            results, CURVE, "weight_bit_budget", lambda case: f"{case.config.weight_bit_budget:g}"
        ),
    ]
    return "\n\n".join(parts) + "\n"


def proportion_error(figures: Figures) -> float:
    """Return the standard error of a top-1, `sqrt(p (1 - p) / N)`."""
    return float(np.sqrt(figures.top1 * (1 - figures.top1) / figures.images))


def preset_label(case: Case) -> str:
    """Return what the first table calls a case."""
    layout = f", {case.layout}" if case.target == "packed_int4" else ""
    return f"`{case.preset}`, `{case.target}`{layout}"


def markdown(results: Results, shown: Sequence[Case], title: str, label: Any) -> str:
    """Return one table: the cases of each network, of those that were measured."""
    lines = [
        f"| network | {title} | {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' ---: |' * len(COLUMNS)}",
    ]
    for network, cases in results.items():
        for place, case in enumerate(case for case in shown if case.name in cases):
            row = cells(cases[case.name], cases[FLOAT])
            lines.append(f"| {'' if place else network} | {label(case)} | {' | '.join(row)} |")
    return "\n".join(lines)


def arguments(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--calibration", type=Path, required=True, metavar="PATH", help="images")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="labelled images")
    parser.add_argument("--samples", type=int, default=64, help="images of --calibration (64)")
    for option in ("--resize", "--crop"):
        parser.add_argument(option, type=int)
    for option, default in (("--mean", 0.0), ("--std", 1.0)):
        parser.add_argument(option, type=float, nargs="+", default=default)
    parser.add_argument(
        "--reference",
        type=Path,
        default=REFERENCE,
        metavar="RESULTS.json",
        help="figures of an earlier run (docs/results.json); the page lies beside it",
    )
    parser.add_argument("--update", action="store_true", help="write the reference and its page")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if anything moved and the reference is not to be updated, otherwise 0."""
    parser, chosen = arguments(argv)
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
        import_tensorflow()
        from tflite_ptq4.keras_side.load_model import image_input_shape, load_model

        message(f"Loading {chosen.model}")
        model = load_model(chosen.model)
        read = partial(
            load_images,
            resize=chosen.resize,
            crop=chosen.crop,
            mean=chosen.mean,
            std=chosen.std,
            input_shape=image_input_shape(model),
        )
        calibration = read(chosen.calibration, samples=chosen.samples).images[0][:]
        data = read(chosen.data)
        if data.labels is None:
            parser.error(f"{chosen.data} must have labels: accuracy is what is compared.")
        found = measure(model, chosen.model.stat().st_size, calibration, data)
        differences = compare(results[network], found) if network in results else []
        if chosen.update:
            write_results(chosen.reference, {**results, network: found})
    if chosen.json:
        cases = {name: asdict(figures) for name, figures in found.items()}
        print_json({"network": network, "cases": cases, "moved": differences})
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
