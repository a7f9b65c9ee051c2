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

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
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
from tflite_ptq4.image_data import ImageSet, load_images
from tflite_ptq4.numerics.closeness import agreement
from tflite_ptq4.progress import track
from tflite_ptq4.runnable_models import predict_keras

if TYPE_CHECKING:
    import keras

NAIVE = QuantizationConfig(
    weight_bits=4,
    activation_bits=4,
    weight_granularity="per_channel",
    activation_granularity="per_channel",
    quantized_tensors="layer_inputs",
    weight_scale="max_abs",
    activation_clipping="min_max",
    weight_bit_allocation="none",
    activation_bit_allocation="none",
    bias_correction=False,
    mean_correction="weights",
    variance_correction=True,
    weight_rounding="nearest",
    refit_weights=False,
    output_matching=False,
    first_layer_bits=8,
    last_layer_bits=8,
    input_bits=8,
    output_bits=8,
)
NAIVE_8W4A = NAIVE.replace(weight_bits=8)
NAIVE_4W8A = NAIVE.replace(activation_bits=8)
LAYER_WISE = NAIVE_8W4A.replace(
    weight_granularity="per_tensor", activation_granularity="per_tensor"
)
# Sections of the paper.
ACIQ = {"activation_clipping": "laplace"}  # 3
ACTIVATION_ALLOCATION = {"activation_bit_allocation": "paper"}  # 4
WEIGHT_ALLOCATION = {"weight_bit_allocation": "paper"}  # 4
BIAS_CORRECTION = {"bias_correction": True}  # 5
MEAN_ALONE = {"bias_correction": True, "variance_correction": False}  # 5, without the deviation

# Bits of weights and activations; methods; the config. A block starts with no method and ends with
# all that it has.
TABLE = [
    ("8W4A", "naive", NAIVE_8W4A),
    ("8W4A", "ACIQ", NAIVE_8W4A.replace(**ACIQ)),
    ("8W4A", "bit allocation", NAIVE_8W4A.replace(**ACTIVATION_ALLOCATION)),
    ("8W4A", "both", NAIVE_8W4A.replace(**ACIQ, **ACTIVATION_ALLOCATION)),
    ("4W8A", "naive", NAIVE_4W8A),
    ("4W8A", "bias correction", NAIVE_4W8A.replace(**BIAS_CORRECTION)),
    ("4W8A", "bit allocation", NAIVE_4W8A.replace(**WEIGHT_ALLOCATION)),
    ("4W8A", "both", NAIVE_4W8A.replace(**BIAS_CORRECTION, **WEIGHT_ALLOCATION)),
    ("4W8A, mean alone", "naive", NAIVE_4W8A),
    ("4W8A, mean alone", "bias correction", NAIVE_4W8A.replace(**MEAN_ALONE)),
    ("4W8A, mean alone", "bit allocation", NAIVE_4W8A.replace(**WEIGHT_ALLOCATION)),
    ("4W8A, mean alone", "both", NAIVE_4W8A.replace(**MEAN_ALONE, **WEIGHT_ALLOCATION)),
    ("4W4A", "naive", NAIVE),
    (
        "4W4A",
        "all",
        NAIVE.replace(**ACIQ, **ACTIVATION_ALLOCATION, **WEIGHT_ALLOCATION, **BIAS_CORRECTION),
    ),
    ("4W4A, mean alone", "naive", NAIVE),
    (
        "4W4A, mean alone",
        "all",
        NAIVE.replace(**ACIQ, **ACTIVATION_ALLOCATION, **WEIGHT_ALLOCATION, **MEAN_ALONE),
    ),
    ("8W4A, layer-wise", "naive", LAYER_WISE),
    ("8W4A, layer-wise", "ACIQ", LAYER_WISE.replace(**ACIQ)),
]

# Top-1 in percent of the float networks that the authors quantized: torchvision's pretrained ones
# (https://docs.pytorch.org/0.1.12/torchvision/models.html, 100 - error).
FLOAT_TOP1 = {"ResNet-18": 69.76, "ResNet-50": 76.15}


@dataclass(frozen=True)
class Published:
    """A figure of the authors: top-1 in percent on the validation images of ImageNet."""

    network: str
    bits: str
    methods: str
    top1: float
    source: str

    @property
    def to_float(self) -> float:
        """Points against the float network."""
        return self.top1 - FLOAT_TOP1[self.network]


CODE_OF_THE_PAPER = "github.com/submission2019/cnn-quantization"
CODE_OF_ACIQ = "github.com/submission2019/AnalyticalScaleForIntegerQuantization"
PUBLISHED = [
    Published("ResNet-50", "4W4A", "naive", 62.154, f"{CODE_OF_THE_PAPER}, README"),
    Published("ResNet-50", "4W4A", "all", 73.330, f"{CODE_OF_THE_PAPER}, README"),
    Published("ResNet-18", "4W4A", "all", 67.0, f"the paper, as quoted in {CODE_OF_THE_PAPER}#10"),
    Published("ResNet-50", "8W4A, layer-wise", "ACIQ", 71.404, f"{CODE_OF_THE_PAPER}, README"),
    Published("ResNet-18", "8W4A, layer-wise", "naive", 53.206, f"{CODE_OF_ACIQ}, README"),
    Published("ResNet-18", "8W4A, layer-wise", "ACIQ", 65.728, f"{CODE_OF_ACIQ}, README"),
]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--calibration", type=Path, required=True, metavar="PATH", help="images")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="labelled images")
    parser.add_argument("--samples", type=int, default=64, help="images of --calibration (64)")
    parser.add_argument("--data-samples", type=int, help="images of --data (all)")
    for option in ("--resize", "--crop"):
        parser.add_argument(option, type=int)
    for option, default in (("--mean", 0.0), ("--std", 1.0)):
        parser.add_argument(option, type=float, nargs="+", default=default)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args(argv)


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
    chosen = arguments(argv)
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
        data = read(chosen.data, samples=chosen.data_samples)
        if data.labels is None:
            raise SystemExit(f"{chosen.data} must have labels: accuracy is what is compared.")
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
