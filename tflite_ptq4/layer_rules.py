"""Exceptions of the config for single layers, and what comes out for one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from tflite_ptq4.config_checks import check_fields, check_keys
from tflite_ptq4.errors import ConfigError

ActivationClipping = Literal["auto", "laplace", "gaussian", "min_max", "percentile", "mse"]
Bits = Annotated[int, (2, 8)]


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """An exception for the layers that it matches: leave them in float, or set other values.

    Args:
        match: glob on the layer's name (`*`, `?`, `[abc]`, case-sensitive), None for any name. The
            name of a model or layer means all parts of it: "backbone" and "backbone/conv" also
            match "backbone/conv/linear", as a layer with `activation=` appears in the plan.
        layer_type: class name of the Keras layer, e.g. "Dense", None for any type.
        quantize: False leaves the layer in float.
        weight_bits: bits of the weights, None to leave them as they are without this rule.
        activation_bits: bits of the layer's output, signed or not, None to leave them.
        activation_clipping: how the output is clipped, None to leave it.

    Raises:
        ConfigError: a value is out of its range, the rule matches nothing in particular, or it
            gives bits or a clipping to layers that it leaves in float.
    """

    match: str | None = None
    layer_type: str | None = None
    quantize: bool = True
    weight_bits: Bits | None = None
    activation_bits: Bits | None = None
    activation_clipping: ActivationClipping | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_fields(self)
        if self.match is None and self.layer_type is None:
            raise ConfigError(
                "A LayerRule must name its layers. Received: neither `match` nor `layer_type`. "
                "Give one of them, or change the config's own fields to mean every layer."
            )
        overrides = (self.weight_bits, self.activation_bits, self.activation_clipping)
        if not self.quantize and any(value is not None for value in overrides):
            raise ConfigError(
                "A LayerRule with `quantize=False` must set nothing else, for its layers stay in "
                f"float. Received: {self!r}. Drop the other values, or `quantize=False`."
            )

    def applies_to(self, name: str, layer_type: str) -> bool:
        """Whether both conditions that the rule states hold for the layer."""
        parts = name.split("/")
        wholes = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return (self.match is None or any(fnmatchcase(whole, self.match) for whole in wholes)) and (
            self.layer_type is None or self.layer_type == layer_type
        )


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """What the config says about one layer, with every rule resolved.

    Args:
        quantize: False where the layer stays in float; the three values after it are then None.
        weight_bits: bits of the weights.
        activation_bits: bits of the layer's output.
        activation_clipping: how the output is clipped.
        reason: the fields or rules that these values come from, "default" if from none.
        usual_weight_bits: whether no rule and no exception names the bits of the weights, so that
            an allocation or a budget may change them.
        usual_activation_bits: the same for the output.
    """

    quantize: bool
    weight_bits: int | None
    activation_bits: int | None
    activation_clipping: ActivationClipping | None
    reason: str
    usual_weight_bits: bool = False
    usual_activation_bits: bool = False


def rules_from_list(rules: Any) -> tuple[LayerRule, ...]:
    """The rules of a parsed config file.

    Raises:
        ConfigError: it is no list of mappings, or one of them is refused; says which.
    """
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        raise ConfigError(
            "`rules` must be a list of mappings with the fields of LayerRule. "
            f"Received: {rules!r}. Write one `- match: ...` entry per rule.",
            key=("rules",),
        )
    result = []
    for index, rule in enumerate(rules):
        try:
            check_keys(rule, LayerRule)
            result.append(LayerRule(**rule))
        except ConfigError as error:
            raise ConfigError(f"rules[{index}]: {error}", ("rules", index, *error.key)) from error
    return tuple(result)
