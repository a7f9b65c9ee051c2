"""The ablation of the paper (arXiv 1810.05723, tables 1 to 3), repeated on any Keras classifier.

    python examples/reproduce_paper_table.py MODEL.keras --calibration PATH --data PATH \
        --crop 224 --mean 127 --std 128

Quantizes the network in each way of `TABLE`, runs the simulated Keras models on labelled images,
and prints top-1 beside the authors' own figures, `PUBLISHED`. Networks and images differ, so what
can be compared is the difference to the float network. A second table tells whether each method
improves on none, and all of them on each: in points of top-1 and of agreement with the float
network, with the standard error of the difference over the images, which both networks share.

Here weights have a symmetric grid, as TFLite asks, statistics come from the calibration images, and
what is quantized is what layers read. The authors' code takes asymmetric grids, the statistics of
the very batch that it quantizes, and what convolutions write. The paper corrects the mean and the
deviation of the weights; their README's commands ask for `-bcw`, beside which the deviation has a
flag of its own, so the blocks "mean alone" leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import labelled_classifier
import numpy as np
from paper_ablation import FLOAT_TOP1, PUBLISHED, TABLE

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.cli.console import (
    number,
    percent,
    print_json,
    print_table,
    results_only_on_stdout,
)
from tflite_ptq4.evaluation.model_evaluation import top1
from tflite_ptq4.evaluation.runnable_models import predict_keras
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.numerics.closeness import agreement
from tflite_ptq4.progress import track

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Answers:
    """What one network answers on N images: whether rightly, and whether as the float network."""

    right: np.ndarray
    agrees: np.ndarray

    def over(self, other: Answers) -> dict[str, float]:
        """Return how many points more there are of each than for another network."""
        points, error = difference(self.right, other.right)
        agreeing_points, agreeing_error = difference(self.agrees, other.agrees)
        return {
            "points": points,
            "standard_error": error,
            "agreement_points": agreeing_points,
            "agreement_standard_error": agreeing_error,
        }


def difference(more: np.ndarray, less: np.ndarray) -> tuple[float, float]:
    """Return the difference of two shares in percent points, and its standard error.

    Args:
        more, less: bool [N], of the same N images.
    """
    points = 100.0 * (more.astype(np.float64) - less)
    return float(points.mean()), float(points.std() / np.sqrt(len(points)))


def measure(
    model: keras.Model, calibration: np.ndarray, data: ImageSet
) -> tuple[list[dict[str, Any]], list[Answers]]:
    """Measure the float network and every way of `TABLE`.

    Args:
        model: a classifier.
        calibration: float32 [n, H, W, C].
        data: N images with labels.

    Returns:
        A row for the float network and for each entry of `TABLE`, and what they answer.
    """

    def run(title: str, network: keras.Model) -> np.ndarray:
        return predict_keras(network, data.images, progress=partial(track, title))

    def measured(outputs: np.ndarray, weight_bits: float, activation_bits: float) -> dict[str, Any]:
        return {
            "average_weight_bits": weight_bits,
            "average_activation_bits": activation_bits,
            "top1": top1(outputs, data.labels),
            "agreement": agreement(reference, outputs),
            "answers": Answers(
                right=outputs.argmax(axis=-1) == data.labels,
                agrees=outputs.argmax(axis=-1) == reference.argmax(axis=-1),
            ),
        }

    reference = run("Running the float network", model)
    statistics = calibrate(model, calibration, progress=partial(track, "Calibrating"))
    of_config: dict[QuantizationConfig, dict[str, Any]] = {}
    for bits, methods, config in TABLE:
        if config in of_config:
            continue
        quantized = quantize_model(model, statistics, config)
        report = quantized.report
        of_config[config] = measured(
            run(f"{bits}, {methods}", quantized.simulated_model),
            report.average_weight_bits,
            report.average_activation_bits,
        )
    found = [{"bits": "float", "methods": "", **measured(reference, 32.0, 32.0)}]
    found += [{"bits": b, "methods": m, **of_config[config]} for b, m, config in TABLE]
    answers = [row.pop("answers") for row in found]
    for row, own in zip(found, answers, strict=True):
        row["to_float"], row["standard_error"] = difference(own.right, answers[0].right)
        row["published_to_float"] = {
            figure.network: figure.to_float
            for figure in PUBLISHED
            if (figure.bits, figure.methods) == (row["bits"], row["methods"])
        }
    return found, answers


def order(answers: Sequence[Answers]) -> list[dict[str, Any]]:
    """Compare what the paper's tables put in order: each method with none, all with each.

    Args:
        answers: of the entries of `TABLE`.
    """
    blocks: dict[str, dict[str, Answers]] = {}
    for (bits, methods, _), own in zip(TABLE, answers, strict=True):
        blocks.setdefault(bits, {})[methods] = own
    found = []
    for bits, block in blocks.items():
        none, *single, every = block
        pairs = [(methods, none) for methods in single]
        pairs += [(every, fewer) for fewer in (none, *single)]
        found += [
            {"bits": bits, "methods": better, "over": worse, **block[better].over(block[worse])}
            for better, worse in pairs
        ]
    return found


def difference_cells(points: float, standard_error: float) -> tuple[str, str, str]:
    """Return a difference, its standard error, and whether it is clearly above zero."""
    if abs(points) <= 2 * standard_error:
        holds = "within 2 errors"
    else:
        holds = "yes" if points > 0 else "no"
    return f"{points:.2f}", f"{standard_error:.2f}", holds


def print_rows(title: str, found: list[dict[str, Any]], compared: list[dict[str, Any]]) -> None:
    print_table(
        title,
        (
            "bits",
            "methods",
            "bits/weight",
            "bits/activation",
            "agreement",
            "top-1",
            "to float",
            "std. error",
            *FLOAT_TOP1,
        ),
        [
            (
                row["bits"],
                row["methods"],
                f"{row['average_weight_bits']:.2f}",
                f"{row['average_activation_bits']:.2f}",
                percent(row["agreement"]),
                percent(row["top1"]),
                f"{row['to_float']:.2f}",
                f"{row['standard_error']:.2f}",
                *(
                    number(row["published_to_float"].get(network), "{:.2f}")
                    for network in FLOAT_TOP1
                ),
            )
            for row in found
        ],
    )
    print_table(
        "Does the paper's order hold? In points of top-1, and of agreement with the float network:",
        ("bits", "methods", "over", *("points", "std. error", "holds") * 2),
        [
            (
                row["bits"],
                row["methods"],
                row["over"],
                *difference_cells(row["points"], row["standard_error"]),
                *difference_cells(row["agreement_points"], row["agreement_standard_error"]),
            )
            for row in compared
        ],
    )
    print("Published figures, top-1 in percent, of which the first table shows points to float:")
    for figure in PUBLISHED:
        print(
            f"  {figure.network}, {figure.bits}, {figure.methods}: {figure.top1:g} "
            f"of {FLOAT_TOP1[figure.network]:g} ({figure.source})"
        )


def main(argv: list[str] | None = None) -> None:
    parser = labelled_classifier.parser_of((__doc__ or "").splitlines()[0])
    parser.add_argument("--data-samples", type=int, help="images of --data (all)")
    chosen = parser.parse_args(argv)
    with results_only_on_stdout():
        model, calibration, data = labelled_classifier.load(parser, chosen, chosen.data_samples)
        found, answers = measure(model, calibration, data)
        compared = order(answers[1:])
    if chosen.json:
        print_json(
            {
                "model": str(chosen.model),
                "calibration_images": len(calibration),
                "images": len(data),
                "rows": found,
                "order": compared,
                "published": [
                    {**vars(figure), "float_top1": FLOAT_TOP1[figure.network]}
                    for figure in PUBLISHED
                ],
            }
        )
    else:
        images = f"{len(data)} images, calibrated on {len(calibration)}"
        print_rows(f"{chosen.model}: {images}", found, compared)


if __name__ == "__main__":
    main()
