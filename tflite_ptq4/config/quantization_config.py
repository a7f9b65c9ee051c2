"""Every choice of the method as one frozen value, checked once and resolved once per layer.

A new choice is one line in `QuantizationConfig`: its check follows from its type, its key in YAML
from its name, and files written before it existed load with its default.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

from tflite_ptq4 import recipes
from tflite_ptq4.config.checks import nearest, problems, quoted, raise_first
from tflite_ptq4.config.contradictions import OF_CONFIGS
from tflite_ptq4.config.float_only import (
    SCALE_PER_CHANNEL,
    SUMS_IN_FLOAT,
    WEIGHTS_OFF_THE_GRID,
    FloatOnly,
)
from tflite_ptq4.config.layer_rules import (
    LayerRule,
    LayerSettings,
    resolve_settings,
)
from tflite_ptq4.config.recipe_checks import SCHEMA_VERSION, file_problems, recipe_problems
from tflite_ptq4.config.values import (
    ActivationClipping,
    AverageBits,
    BitAllocation,
    BitBound,
    Bits,
    ClippingError,
    Effort,
    Granularity,
    MeanCorrection,
    Percent,
    QuantizedTensors,
    WeightBitAllocation,
    WeightRounding,
    WeightScale,
)
from tflite_ptq4.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Every choice of the method (Banner, Nahshan, Soudry, NeurIPS 2019, arXiv 1810.05723).

    The defaults need calibration statistics only; `needs_images` tells the choices that need more.

    Args:
        weight_bits: bits of a weight.
        activation_bits: bits of an activation; steps inside a layer that becomes several operators
            keep 8.
        average_weight_bits: mean that the bit allocation of the weights meets, e.g. 3.5; None for
            `weight_bits`.
        average_activation_bits: mean that the bit allocation of the activations meets; None for
            `activation_bits`.
        weight_granularity: one weight scale per output channel or per tensor.
        activation_granularity: one clip per tensor or per channel.
        quantized_tensors: every tensor that an operator on integers reads or writes, or, as in the
            paper, only what layers with weights read, sums between them staying in float.
        weight_scale: the clip of the weights: least squared error on the weights themselves, their
            largest absolute value, or the analytic optimum for one density (section 3).
        activation_clipping: the clip of the activations: the analytic optimum for one density
            (section 3), their range, a percentile, the least squared error on the calibration
            histogram, or "auto", whichever of these has the least.
        clipping_error: what an error in one channel counts when a whole tensor is clipped: as much
            as the kernels that read the channel amplify it, or the same in every channel.
        percentile: percent of the values kept by `activation_clipping="percentile"`.
        weight_bit_allocation: bits per output channel (section 4): none, the paper's rounding, an
            allocation that meets the average exactly, or "measured", which spends the bits of all
            layers together, as many as `weight_bit_budget` has, where they lower the error of the
            outputs most.
        activation_bit_allocation: the paper's and the exact one for activations, which are then
            clipped per channel.
        minimum_bits: fewest bits that an allocation gives; at 0 a channel becomes its mean, but of
            "measured" bits it keeps 2.
        maximum_bits: most bits that an allocation or a budget gives.
        bias_correction: correct the mean and the deviation of the quantized weights (section 5).
        mean_correction: how it corrects the mean: through the bias of the layer or by moving the
            cheapest roundings, which both keep the weights on the integer grid; in the weights
            themselves, the paper's own form, which leaves it; or not at all.
        variance_correction: whether it corrects the deviation, through the scale of the channel.
        weight_rounding: nearest, or column by column with the error fed forward through the inverse
            Hessian of the quantized input (GPTQ, optimal brain quantization).
        refit_weights: first refit the weights by ridge regression from the quantized input to the
            float output.
        output_matching: match each channel's output mean and deviation to the float network's.
        varied_images: where few images are given, mirrored and shifted copies of them join in the
            corrections that need images, more at a higher effort.
        effort: time spent on the corrections that need images: "fast" goes through 32 of them at
            most, reads fewer patches of each layer's input and refits by a fixed ridge, "balanced"
            goes through 256 at most, "best" through 2,048, and reads many more patches.
        first_layer_bits: weight bits of the first layer, None for no exception.
        last_layer_bits: weight bits of the last layer, None for no exception.
        depthwise_weight_bits: weight bits of depthwise convolutions, None for no exception.
        weight_bit_budget: layers that nothing else names get `maximum_bits` in place of
            `weight_bits`, as long as the weights of all layers but the first and the last have no
            more than this on average: where images are given, first those that cost the outputs
            most for a bit, otherwise depthwise layers, the smallest first. None for no such layers.
        activation_bit_budget: activations that nothing else names get up to `maximum_bits` in place
            of `activation_bits`, as long as all elements have no more than this on average: those
            that cost the outputs most for a bit, or without images those that no ReLU precedes.
            None for no such activations. It has no effect on activations clipped per channel, and
            steps inside a layer do not count.
        input_bits: bits of the network's input.
        output_bits: bits of the network's output.
        signed_activation_bits: bits of the activations that no ReLU precedes, None for
            `activation_bits`.
        rules: exceptions for single layers or types of layers.

    Raises:
        ConfigError: a value is of the wrong type or out of range, or two contradict each other.
    """

    weight_bits: Bits = 4
    activation_bits: Bits = 8
    average_weight_bits: AverageBits | None = None
    average_activation_bits: AverageBits | None = None
    weight_granularity: Granularity = "per_channel"
    activation_granularity: Granularity = "per_tensor"
    quantized_tensors: QuantizedTensors = "all"
    weight_scale: WeightScale = "squared_error"
    activation_clipping: ActivationClipping = "auto"
    clipping_error: ClippingError = "tensor"
    percentile: Percent = 99.99
    weight_bit_allocation: WeightBitAllocation = "none"
    activation_bit_allocation: BitAllocation = "none"
    minimum_bits: BitBound = 0
    maximum_bits: BitBound = 8
    bias_correction: bool = True
    mean_correction: MeanCorrection = "bias"
    variance_correction: bool = True
    weight_rounding: WeightRounding = "nearest"
    refit_weights: bool = False
    output_matching: bool = False
    varied_images: bool = False
    effort: Effort = "balanced"
    first_layer_bits: Bits | None = 8
    last_layer_bits: Bits | None = 8
    depthwise_weight_bits: Bits | None = None
    weight_bit_budget: AverageBits | None = None
    activation_bit_budget: AverageBits | None = None
    input_bits: Bits = 8
    output_bits: Bits = 8
    signed_activation_bits: Bits | None = None
    rules: tuple[LayerRule, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant, alone or together."""
        raise_first(problems(vars(self), QuantizationConfig, OF_CONFIGS))

    @property
    def mean_weight_bits(self) -> float:
        """Bits that an allocation of the weights meets on average."""
        return self.weight_bits if self.average_weight_bits is None else self.average_weight_bits

    @property
    def mean_activation_bits(self) -> float:
        """Bits that an allocation of the activations meets on average."""
        given = self.average_activation_bits
        return self.activation_bits if given is None else given

    @property
    def needs_per_channel_activations(self) -> bool:
        """Whether activations have a clip per channel, which no integer target can hold."""
        return (
            self.activation_granularity == "per_channel" or self.activation_bit_allocation != "none"
        )

    @property
    def float_only(self) -> FloatOnly | None:
        """Why no integer target can hold it, None where one can."""
        if self.needs_per_channel_activations:
            return SCALE_PER_CHANNEL
        if self.bias_correction and self.mean_correction == "weights":
            return WEIGHTS_OFF_THE_GRID
        if self.quantized_tensors == "layer_inputs":
            return SUMS_IN_FLOAT
        return None

    @property
    def needs_float_target(self) -> bool:
        """Whether no integer target can hold it; `float_only` says why."""
        return self.float_only is not None

    @property
    def default_target(self) -> str:
        """The export target that holds what the config asks for and runs in most places."""
        return "float_simulated" if self.needs_float_target else "int8_container"

    @property
    def measured_parts(self) -> tuple[str, ...]:
        """What gets more bits than usual where it costs the outputs most: weights, activations."""
        weights = self.weight_bit_allocation == "measured" or self.weight_bit_budget is not None
        activations = self.activation_bit_budget is not None
        activations &= not self.needs_per_channel_activations
        return ("weights",) * weights + ("activation",) * activations

    @property
    def needs_images(self) -> bool:
        """Whether the choices need the calibration images, not only the statistics."""
        corrects = self.output_matching or self.refit_weights
        measures = self.weight_bit_allocation == "measured"
        return corrects or measures or self.weight_rounding == "second_order"

    def without_images(self) -> QuantizationConfig:
        """The config with the choices that need images switched off.

        Where output matching stood in for the bias correction, which needs statistics only, that is
        switched on: without either, 4-bit weights cost a network most of its accuracy.
        """
        corrects = self.mean_correction != "none" or self.variance_correction
        return self.without_measured_bits().replace(
            output_matching=False,
            refit_weights=False,
            weight_rounding="nearest",
            bias_correction=self.bias_correction or (self.output_matching and corrects),
        )

    def without_measured_bits(self) -> QuantizationConfig:
        """The config with no bits that only a measurement can allocate.

        Of a "measured" allocation, `weight_bit_budget` then holds the average.
        """
        if self.weight_bit_allocation != "measured":
            return self
        budget = self.weight_bit_budget
        return self.replace(
            weight_bit_allocation="none",
            average_weight_bits=None,
            weight_bit_budget=self.mean_weight_bits if budget is None else budget,
        )

    def with_average_weight_bits(self, average: float) -> QuantizationConfig:
        """The config with another average of the bits of a weight, where no rule names them.

        An allocation inside each layer meets the average. Otherwise a weight gets the whole bits
        of it, and `weight_bit_budget` pays for more in some layers or channels with the rest.

        Raises:
            ConfigError: the average is not from 2 to 8, or not between the bounds of an allocation.
        """
        if self.weight_bit_allocation not in ("none", "measured"):
            return self.replace(average_weight_bits=average)
        return self.replace(weight_bits=int(average), weight_bit_budget=average)

    def for_layer(
        self,
        name: str,
        layer_type: str,
        *,
        first: bool = False,
        last: bool = False,
        depthwise: bool = False,
        signed_output: bool = False,
    ) -> LayerSettings:
        """Resolve rules, exceptions and defaults for one layer.

        Each value is the first one set in: the rules with `match`, the rules with `layer_type`
        only, of equal ones the later first; `first_layer_bits` and `last_layer_bits` (the larger
        for a layer that is both); `depthwise_weight_bits`; `signed_activation_bits`; the default.
        The first rule in that order alone decides `quantize`.

        Args:
            name: the layer's name.
            layer_type: its Keras class name.
            first: whether it is the first layer with weights.
            last: whether it is the last layer with weights.
            depthwise: whether each of its channels has a kernel of its own.
            signed_output: whether its output can be negative, i.e. no ReLU is fused with it.

        Returns:
            The settings of the layer, with the reason for them.
        """
        ends = ["first_layer_bits"] * first + ["last_layer_bits"] * last
        ends.sort(key=lambda end: getattr(self, end) or 0, reverse=True)
        places = {
            "weight_bits": [*ends, *["depthwise_weight_bits"] * depthwise, "weight_bits"],
            "activation_bits": [*["signed_activation_bits"] * signed_output, "activation_bits"],
            "activation_clipping": ["activation_clipping"],
        }
        usual = {
            key: [(field, getattr(self, field)) for field in looked_up]
            for key, looked_up in places.items()
        }
        return resolve_settings(self.rules, name, layer_type, usual)

    def replace(self, **changes: Any) -> QuantizationConfig:
        """A config with some fields changed, checked anew.

        Raises:
            ConfigError: a key is no field, or the changed config cannot be meant.
        """
        raise_first(problems(changes, QuantizationConfig))
        return dataclasses.replace(self, **changes)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> QuantizationConfig:
        """The config of a shipped recipe, with some fields changed.

        Args:
            name: one of `tflite_ptq4.recipes.names()`, e.g. "w4a8"; that module decodes the names.
            **overrides: fields that replace the recipe's.

        Raises:
            ConfigError: there is no such preset or field, or the changed config cannot be meant.
        """
        known = recipes.names()
        if name not in known:
            raise ConfigError(
                f"A preset must be one of {quoted(known)}. Received: {name!r}. "
                f"The nearest is {nearest(name, known)!r}."
            )
        return cls.from_yaml(recipes.text(name)).replace(**overrides)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values with the schema version; `from_dict` is its exact inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["rules"] = [dataclasses.asdict(rule) for rule in self.rules]
        return {"version": SCHEMA_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationConfig:
        """The config of such a mapping; keys that it leaves out have their defaults.

        Raises:
            ConfigError: the version is missing or unknown, a key is unknown, or a value is refused.
        """
        raise_first(recipe_problems(values, cls))
        values = {key: value for key, value in values.items() if key != "version"}
        if "rules" in values:
            values["rules"] = tuple(LayerRule(**rule) for rule in values["rules"])
        return cls(**values)

    def to_yaml(self) -> str:
        """The config as YAML text; `from_yaml` is its exact inverse."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> QuantizationConfig:
        """The config of a YAML text or file.

        Args:
            source: a path object, a string of one line that ends in .yaml or .yml (then a path
                too), or any other string (then the text itself).

        Raises:
            ConfigError: the file cannot be read, the text is not YAML, or `from_dict` refuses it.
        """
        raise_first(file_problems(source, cls))
        return cls.from_dict(recipes.read(source).values)
