"""What to try on the layers that cost most: a rule to paste into a recipe, and what it would bring.

A bit more quarters a rounding error, so a part that goes from b to 8 bits keeps 4^(b - 8) of it.
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.report.values import LayerRow

WORST = 5
MOST_BITS = 8
BOTH_FROM = 0.25  # share of a layer's sensitivity from which on its lesser part is worth bits too


def free_settings(config: QuantizationConfig) -> dict[str, str | bool]:
    """Corrections that cost no bits and are off in a recipe with weights of few bits.

    Args:
        config: what the network was quantized with.

    Returns:
        Fields of the config, with the values to give them.
    """
    if config.mean_weight_bits >= MOST_BITS or config.needs_float_target:
        return {}
    wished = {"weight_rounding": "second_order", "refit_weights": True, "output_matching": True}
    return {name: value for name, value in wished.items() if getattr(config, name) != value}


@dataclass(frozen=True)
class Advice:
    """What to change about one layer.

    Attributes:
        layer: name of the row.
        cause: what dominates: "weights", "output" or "both"; "low weight SQNR" where the
            sensitivity was not measured.
        rule: fields of a `LayerRule` to add to the recipe; None where no rule helps.
        setting: a field of the recipe itself to set, as (name, value); None where a rule does it.
        added: by the budget of the config that it counts in, bits that the rule adds in all.
        keeps: share of the layer's sensitivity that is expected to remain; None if not measured.
        reason: why, in a sentence.
    """

    layer: str
    cause: str
    rule: dict[str, str | int | bool] | None
    setting: tuple[str, int] | None
    keeps: float | None
    reason: str
    added: Mapping[str, float] = field(default_factory=dict)

    @property
    def leaves_in_float(self) -> bool:
        """Whether it is to leave the layer in float, the last resort."""
        return self.rule is not None and "quantize" in self.rule


def recipe_lines(advices: Iterable[Advice], budgets: Mapping[str, tuple[float, int]]) -> list[str]:
    """Lines of a recipe that follow some advice, and let no other layer pay for it.

    Args:
        advices: what to change; those that leave a layer in float are passed over if there are
            several.
        budgets: of the config, by field: the average, and how many numbers it is the average of.
    """
    advices = tuple(advices)
    if len(advices) > 1:
        advices = tuple(advice for advice in advices if not advice.leaves_in_float)
    lines = [yaml_fields(dict([advice.setting])) for advice in advices if advice.setting]
    for name, (average, count) in budgets.items():
        added = sum(advice.added.get(name, 0.0) for advice in advices)
        if added:
            # Up in the fourth digit, so that a budget that is spent to the last bit stays enough.
            raised = min(math.ceil(1e4 * (average + added / count) - 1e-6) / 1e4, MOST_BITS)
            lines.append(f"{name}: {raised:g}  # so that no other layer pays for the rules")
    rules = [rule_yaml(advice.rule) for advice in advices if advice.rule is not None]
    return (
        list(dict.fromkeys(lines))
        + ["rules:"] * bool(rules)
        + [f"  {rule}" for rule in dict.fromkeys(rules)]
    )


def worst_layers(rows: Sequence[LayerRow], count: int = WORST) -> tuple[LayerRow, ...]:
    """The rows that cost the outputs most; by the SQNR of the weights where that is not known.

    Args:
        rows: of a report.
        count: how many at most.
    """
    measured = [row for row in rows if row.sensitivity is not None and row.sensitivity.total > 0]
    if measured:
        ranked = sorted(measured, key=lambda row: -row.sensitivity.total)
    else:
        known = [row for row in rows if row.weight_sqnr_db is not None]
        ranked = sorted(known, key=lambda row: row.weight_sqnr_db)
    return tuple(ranked[:count])


def advise(row: LayerRow, rows: Sequence[LayerRow]) -> Advice:
    """What to try on one layer.

    Args:
        row: a quantized layer.
        rows: of the whole report.
    """
    weights, output = _gains(row)
    measured = row.sensitivity is not None
    total = row.sensitivity.total if measured else None
    lacking = measured and max(weights, output) < 0.05 * total
    if lacking or (not measured and row.weight_bits >= MOST_BITS):
        return _last_resort(row, rows, total)
    if measured and row.output_setting is not None and output >= weights:
        name = row.output_setting
        return Advice(
            row.name,
            "output",
            None,
            (name, MOST_BITS),
            1.0 - output / total,
            f"Its values, at {row.activation_bits:.3g} bits, are the network's own; "
            f"`{name}` of the recipe sets them.",
        )
    chosen = {"weights"} if weights >= output else {"output"}
    own_scale = row.output_setting is None and row.output_rule == row.name
    if measured and min(weights, output) >= BOTH_FROM * total and own_scale:
        chosen = {"weights", "output"}
    return _rule(row, rows, chosen, weights, output, total)


def _gains(row: LayerRow) -> tuple[float, float]:
    """How much less the outputs would lose with 8 bits for the weights, and for the output."""
    if row.sensitivity is None:
        return 1.0, 0.0
    weights, output = (
        (value or 0.0) * (1.0 - 4.0 ** (min(bits, MOST_BITS) - MOST_BITS))
        for value, bits in (
            (row.sensitivity.weights, row.weight_bits),
            (row.sensitivity.activation, row.activation_bits),
        )
    )
    return weights, output if row.output_rule or row.output_setting else 0.0


def _rule(
    row: LayerRow,
    rows: Sequence[LayerRow],
    chosen: set[str],
    weights: float,
    output: float,
    total: float | None,
) -> Advice:
    fields: dict[str, str | int | bool] = {}
    target = row if "weights" in chosen else _named(row.output_rule, rows) or row
    fields["match"] = matching(target, rows)
    if "weights" in chosen:
        fields["weight_bits"] = MOST_BITS
    if "output" in chosen:
        fields["activation_bits"] = MOST_BITS
    added = {}
    if "weight_bits" in fields and row.in_weight_budget:
        added["weight_bit_budget"] = (MOST_BITS - row.weight_bits) * row.weights
    if "activation_bits" in fields:
        own = _named(row.output_rule, rows) or row
        added["activation_bit_budget"] = (MOST_BITS - row.activation_bits) * own.elements
    if total is None:
        cause = "low weight SQNR"
        reason = f"Its weights keep the least at {row.weight_bits:.3g} bits of all layers."
        return Advice(row.name, cause, fields, None, None, reason, added)
    gain = weights * ("weights" in chosen) + output * ("output" in chosen)
    parts = {
        "weights": f"its weights, at {row.weight_bits:.3g} bits",
        "output": f"the rounding of its output to {row.activation_bits:.3g} bits",
    }
    cause = "both" if len(chosen) == 2 else next(iter(chosen))
    named = " and ".join(parts[part] for part in ("weights", "output") if part in chosen)
    share = gain / total
    reason = (
        f"{'All' if share > 0.97 else f'{share:.0%}'} of its cost is {named}; {MOST_BITS} bits "
        "would take that away."
    )
    if target is not row:
        reason += f" Its output has the scale of {target.name}, so the rule is for that layer."
    return Advice(row.name, cause, fields, None, 1.0 - gain / total, reason, added)


def _last_resort(row: LayerRow, rows: Sequence[LayerRow], total: float | None) -> Advice:
    if not row.weights:
        reason = "It has 8 bits already, and there are none beyond."
        return Advice(row.name, "output", None, None, None if total is None else 1.0, reason)
    return Advice(
        row.name,
        "both",
        {"match": matching(row, rows), "quantize": False},
        None,
        None if total is None else 0.0,
        "It has 8 bits already. In float it costs nothing, but then the file is not integer-only.",
    )


def matching(row: LayerRow, rows: Sequence[LayerRow]) -> str:
    """A glob for a rule: the Keras layer where it means this row alone, else the row's own name.

    Args:
        row: of a report.
        rows: all of it.
    """
    wish = glob.escape(row.layer)
    rule = LayerRule(match=wish)
    met = [other.name for other in rows if rule.applies_to(other.name, other.layer_type)]
    return wish if met == [row.name] else glob.escape(row.name)


def rule_yaml(rule: dict[str, str | int | bool]) -> str:
    """One entry of a recipe's `rules`."""
    fields = (f"{key}: {_yaml_value(value)}" for key, value in rule.items())
    return "- {" + ", ".join(fields) + "}"


def yaml_fields(fields: Mapping[str, str | int | bool]) -> str:
    """Fields of a recipe, one in a line."""
    return "\n".join(f"{key}: {_yaml_value(value)}" for key, value in fields.items())


def _yaml_value(value: str | int | bool) -> str:
    # A JSON string is a YAML string; what cannot be printed is escaped.
    ascii_only = isinstance(value, str) and not value.isprintable()
    return json.dumps(value, ensure_ascii=ascii_only)


def _named(name: str | None, rows: Sequence[LayerRow]) -> LayerRow | None:
    return next((row for row in rows if row.name == name), None)
