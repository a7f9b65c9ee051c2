"""The settings of the paper's tables 1 to 3, and the authors' own figures for them.

`reproduce_paper_table.py` measures the settings, and says where they part from the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

from tflite_ptq4 import QuantizationConfig

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
