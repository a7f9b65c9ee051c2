"""A `QuantizeConfig` of TFMOT for each kind of layer: what is asked of it, what was decided."""

from __future__ import annotations

from typing import Any, ClassVar

from tensorflow_model_optimization.quantization.keras import QuantizeConfig

from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.errors import ConfigError
from tflite_ptq4.tfmot.quantizers import Ptq4ActivationQuantizer, Ptq4WeightQuantizer


class Ptq4QuantizeConfig(QuantizeConfig):
    """How one layer is quantized.

    As an argument of `quantize_annotate_layer` it says what is wanted of the layer otherwise than
    of the others; `quantize_apply` with a `Ptq4QuantizeScheme` replaces it by one that holds the
    quantizers.

    Args:
        weight_bits: bits of the layer's weights; the scheme's choice where None.
        activation_bits: bits of its output; the scheme's choice where None.
        activation_clipping: how its output is clipped; the scheme's choice where None.
        weights: the quantizer of the kernel, as the scheme decided it.
        output: the quantizer of the output, as the scheme decided it; None where the output is
            read by an activation of the same operator.
        decided: whether the scheme decided.

    Raises:
        ConfigError: a value is out of its range.
    """

    layer_types: ClassVar[tuple[str, ...]] = ()  # of any class where empty
    kernel: ClassVar[str | None] = None

    def __init__(
        self,
        weight_bits: int | None = None,
        activation_bits: int | None = None,
        activation_clipping: str | None = None,
        *,
        weights: Ptq4WeightQuantizer | dict[str, Any] | None = None,
        output: Ptq4ActivationQuantizer | dict[str, Any] | None = None,
        decided: bool = False,
    ) -> None:
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.activation_clipping = activation_clipping
        self.weights = Ptq4WeightQuantizer(**weights) if isinstance(weights, dict) else weights
        self.output = Ptq4ActivationQuantizer(**output) if isinstance(output, dict) else output
        self.decided = decided
        self.rule("any")

    def rule(self, match: str) -> LayerRule:
        """What is wanted of the layers that `match` names, as a rule of the config."""
        return LayerRule(
            match=match,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            activation_clipping=self.activation_clipping,
        )

    def get_weights_and_quantizers(self, layer) -> list:
        """The kernel, with its quantizer."""
        self._require_decided(layer)
        return [] if self.weights is None else [(getattr(layer, self.kernel), self.weights)]

    def set_quantize_weights(self, layer, quantize_weights) -> None:
        """Let the layer compute with the rounded kernel."""
        for kernel in quantize_weights:
            setattr(layer, self.kernel, kernel)

    def get_activations_and_quantizers(self, layer) -> list:
        """Nothing: activations are layers of their own."""
        return []

    def set_quantize_activations(self, layer, quantize_activations) -> None:
        """Nothing: activations are layers of their own."""
        pass  # autograph cannot read a function that is a docstring alone

    def get_output_quantizers(self, layer) -> list:
        """The quantizer of the output."""
        self._require_decided(layer)
        return [] if self.output is None else [self.output]

    def get_config(self) -> dict[str, Any]:
        """What the config was made with."""
        return {
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "activation_clipping": self.activation_clipping,
            "weights": None if self.weights is None else self.weights.get_config(),
            "output": None if self.output is None else self.output.get_config(),
            "decided": self.decided,
        }

    def _require_decided(self, layer) -> None:
        if not self.decided:
            raise ConfigError(
                f"A {type(self).__name__} must be applied by its own scheme, which calibration "
                f"gives the ranges. Received: one on the layer {layer.name!r}, applied by another. "
                "Call quantize_apply(model, scheme=Ptq4QuantizeScheme(statistics, config))."
            )


class Ptq4Conv1DQuantizeConfig(Ptq4QuantizeConfig):
    """How a Conv1D is quantized."""

    layer_types, kernel = ("Conv1D",), "kernel"


class Ptq4Conv2DQuantizeConfig(Ptq4QuantizeConfig):
    """How a Conv2D is quantized."""

    layer_types, kernel = ("Conv2D",), "kernel"


class Ptq4Conv2DTransposeQuantizeConfig(Ptq4QuantizeConfig):
    """How a Conv2DTranspose is quantized."""

    layer_types, kernel = ("Conv2DTranspose",), "kernel"


class Ptq4DepthwiseConv1DQuantizeConfig(Ptq4QuantizeConfig):
    """How a DepthwiseConv1D is quantized."""

    layer_types, kernel = ("DepthwiseConv1D",), "depthwise_kernel"


class Ptq4DepthwiseConv2DQuantizeConfig(Ptq4QuantizeConfig):
    """How a DepthwiseConv2D is quantized."""

    layer_types, kernel = ("DepthwiseConv2D",), "depthwise_kernel"


class Ptq4DenseQuantizeConfig(Ptq4QuantizeConfig):
    """How a Dense is quantized."""

    layer_types, kernel = ("Dense",), "kernel"


class Ptq4SeparableConv1DQuantizeConfig(Ptq4QuantizeConfig):
    """How a SeparableConv1D is quantized, which becomes a DepthwiseConv1D and a Conv1D."""

    layer_types = ("SeparableConv1D",)


class Ptq4SeparableConv2DQuantizeConfig(Ptq4QuantizeConfig):
    """How a SeparableConv2D is quantized, which becomes a DepthwiseConv2D and a Conv2D."""

    layer_types = ("SeparableConv2D",)


class Ptq4OutputQuantizeConfig(Ptq4QuantizeConfig):
    """How the output of a layer without weights is quantized: a sum, a mean, an activation."""


CONFIGS = (
    Ptq4Conv1DQuantizeConfig,
    Ptq4Conv2DQuantizeConfig,
    Ptq4Conv2DTransposeQuantizeConfig,
    Ptq4DepthwiseConv1DQuantizeConfig,
    Ptq4DepthwiseConv2DQuantizeConfig,
    Ptq4DenseQuantizeConfig,
    Ptq4SeparableConv1DQuantizeConfig,
    Ptq4SeparableConv2DQuantizeConfig,
    Ptq4OutputQuantizeConfig,
)


def config_for(layer_type: str) -> type[Ptq4QuantizeConfig]:
    """The class of configs for layers of a class."""
    matching = (kind for kind in CONFIGS if layer_type in kind.layer_types)
    return next(matching, Ptq4OutputQuantizeConfig)
