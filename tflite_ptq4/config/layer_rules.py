"""Exceptions of the config for single layers, and what comes out for one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tflite_ptq4.config.checks import problems, raise_first
from tflite_ptq4.config.contradictions import OF_RULES
from tflite_ptq4.config.values import ActivationClipping, Bits
from tflite_ptq4.errors import ConfigError


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
        raise_first(problems(vars(self), LayerRule, OF_RULES))

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


def rule_problems(rules: Any) -> list[ConfigError]:
    """Everything that is wrong with the rules of a parsed config file, each with the rule it is in.

    Args:
        rules: what should be a list of mappings with the fields of `LayerRule`.
    """
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        return [
            ConfigError(
                "`rules` must be a list of mappings with the fields of LayerRule. "
                f"Received: {rules!r}. Write one `- match: ...` entry per rule.",
                key=("rules",),
            )
        ]
    return [
        ConfigError(f"rules[{index}]: {error}", ("rules", index, *error.key))
        for index, rule in enumerate(rules)
        for error in problems(rule, LayerRule, OF_RULES)
    ]


def resolve_settings(
    rules: Sequence[LayerRule],
    name: str,
    layer_type: str,
    usual: Mapping[str, Sequence[tuple[str, Any]]],
) -> LayerSettings:
    """What rules and other exceptions say about one layer.

    Each value is the first one set in: the rules with `match`, the rules with `layer_type` only, of
    equal ones the later first; what stands in `usual`. The first rule in that order alone decides
    `quantize`.

    Args:
        rules: in the order of the config.
        name: the layer's name.
        layer_type: its Keras class name.
        usual: for `weight_bits`, `activation_bits` and `activation_clipping` where each is looked
            up next, with the value there, None for no exception; last the default, which is set.

    Returns:
        The settings of the layer, with the reason for them.
    """
    matching = [entry for entry in enumerate(rules) if entry[1].applies_to(name, layer_type)]
    matching.sort(key=lambda entry: (entry[1].match is not None, entry[0]), reverse=True)
    named = [(f"rules[{index}]", rule) for index, rule in matching]
    reasons: list[str] = []
    if any(not rule.quantize for _, rule in named):
        source, strongest = named[0]
        if not strongest.quantize:
            return LayerSettings(
                quantize=False,
                weight_bits=None,
                activation_bits=None,
                activation_clipping=None,
                reason=f"quantize=False from {source}",
            )
        reasons.append(f"quantize=True from {source}")
    values, is_usual = {}, {}
    for key, places in usual.items():
        candidates = [(source, getattr(rule, key)) for source, rule in named]
        candidates += places
        source, values[key] = next(entry for entry in candidates if entry[1] is not None)
        is_usual[key] = source == places[-1][0]
        reasons += [] if is_usual[key] else [f"{key}={values[key]} from {source}"]
    return LayerSettings(
        quantize=True,
        **values,
        reason="; ".join(reasons) or "default",
        usual_weight_bits=is_usual["weight_bits"],
        usual_activation_bits=is_usual["activation_bits"],
    )
