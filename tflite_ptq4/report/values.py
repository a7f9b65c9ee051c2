"""What a report is made of: a row for each layer, and what became of the network as a whole."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from tflite_ptq4.distributions import Distribution
from tflite_ptq4.sensitivity import Sensitivity


@dataclass(frozen=True)
class LayerRow:
    """One operator: with weights, rounding its output, or in float; or an input of the network.

    Attributes:
        name: the operator, or the input.
        layer: the Keras layer that it came from.
        layer_type: its Keras class.
        quantized: whether it computes on integers.
        weights: number of weights.
        in_weight_budget: whether the weights count in the config's `weight_bit_budget`.
        weight_bits: mean bits of a weight, 32 in float.
        weight_channels: (bits, how many output channels have so many), empty without bits.
        elements: of its output, for one image.
        activation_bits: mean bits of its output, 32 in float.
        activation_channels: (bits, how many channels), one entry for a tensor of one scale.
        clip: the smallest and the largest number that its output can hold; None in float.
        clip_method: how the clip was chosen, "" in float.
        output_rule: the operator whose rule sets the bits of the output, where scales are shared;
            None where no rule can.
        output_setting: the field of the config that sets those bits instead; None where none does.
        weight_sqnr_db: of the weights; None in float, or where there is no error.
        output_sqnr_db: of the output against the float network, every error before it included;
            None where it was not measured, or where there is no error.
        sensitivity: what quantizing it alone does to the outputs; None where it was not measured,
            or nothing of it is quantized.
        reason: where the bits come from, or why the operator stays in float.
        weight_values: distribution of the weights in units of the clip.
        output_values: distribution of the output.
    """

    name: str
    layer: str
    layer_type: str
    quantized: bool
    weights: int
    in_weight_budget: bool
    weight_bits: float
    weight_channels: tuple[tuple[int, int], ...]
    elements: int
    activation_bits: float
    activation_channels: tuple[tuple[int, int], ...]
    clip: tuple[float, float] | None
    clip_method: str
    output_rule: str | None
    output_setting: str | None
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    sensitivity: Sensitivity | None
    reason: str
    weight_values: Distribution | None = field(default=None, repr=False)
    output_values: Distribution | None = field(default=None, repr=False)

    def to_dict(self, *, distributions: bool) -> dict:
        """The row as plain values."""
        values = asdict(self)
        if self.sensitivity is not None:
            values["sensitivity"]["total"] = self.sensitivity.total
            values["sensitivity"]["sqnr_db"] = self.sensitivity.sqnr_db
        if not distributions:
            del values["weight_values"], values["output_values"]
        return values


@dataclass(frozen=True)
class Outcome:
    """What became of a network: the file and its answers, as far as they were measured.

    Attributes:
        file: name of the file.
        bytes: its length.
        float_bytes: length of the float network's file.
        target: the export target.
        images: how many images float network and file were compared on.
        agreement: share of them with the same top class.
        sqnr_db: of the file's outputs, infinity where there is no error; None where it was not
            measured.
        top1: accuracy of the file, where the images have labels.
        float_top1: the same of the float network.
        accuracy_over_bits: (average bits of a weight, accuracy, name) of several networks.
        seconds: how long it took.
    """

    file: str | None = None
    bytes: int | None = None
    float_bytes: int | None = None
    target: str | None = None
    images: int | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    top1: float | None = None
    float_top1: float | None = None
    accuracy_over_bits: tuple[tuple[float, float, str], ...] = ()
    seconds: float | None = None

    def to_dict(self) -> dict:
        """The outcome as plain values; an SQNR that is not finite is None, as JSON asks."""
        finite = self.sqnr_db is not None and math.isfinite(self.sqnr_db)
        return {**asdict(self), "sqnr_db": self.sqnr_db if finite else None}


NOT_MEASURED = Outcome()
