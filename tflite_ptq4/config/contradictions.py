"""Choices of a config, or of one of its rules, that contradict each other."""

from __future__ import annotations

from typing import Any

from tflite_ptq4.config.checks import Contradiction
from tflite_ptq4.config.values import LEAST_MEASURED_BITS
from tflite_ptq4.errors import ConfigError


def _bounds(minimum: int, maximum: int) -> ConfigError | None:
    if minimum <= maximum:
        return None
    return ConfigError(
        "`minimum_bits` must not exceed `maximum_bits`. "
        f"Received: {minimum} and {maximum}. Swap them.",
        key=("minimum_bits",),
    )


def _allocation(kind: str) -> tuple[Contradiction, ...]:
    """What can be wrong with the bit allocation of "weight" or "activation"."""
    allocation, bits, average = f"{kind}_bit_allocation", f"{kind}_bits", f"average_{kind}_bits"
    bounds = ("minimum_bits", "maximum_bits")

    def stray_average(method: str, mean: float | None) -> ConfigError | None:
        if method != "none" or mean is None:
            return None
        return ConfigError(
            f"`{average}` must go with a `{allocation}`. Received: {mean!r} with 'none'. "
            f"Set the allocation to 'exact', or use `{bits}`.",
            key=(average,),
        )

    def unreachable_mean(
        method: str, usual: int, mean: float | None, minimum: int, maximum: int
    ) -> ConfigError | None:
        name, wanted = (bits, usual) if mean is None else (average, mean)
        least = max(minimum, LEAST_MEASURED_BITS) if method == "measured" else minimum
        if method == "none" or minimum > maximum or least <= wanted <= maximum:
            return None
        return ConfigError(
            f"`{name}`, which `{allocation}` meets on average, must lie between `minimum_bits` and "
            f"`maximum_bits`. Received: {wanted!r}, not in [{least}, {maximum}]. "
            "Change it, or widen the bounds.",
            key=(name,),
        )

    return (
        Contradiction((allocation, average), stray_average),
        Contradiction((allocation, bits, average, *bounds), unreachable_mean),
    )


def _one_scale_for_many_widths(method: str, granularity: str) -> ConfigError | None:
    if method == "none" or granularity != "per_tensor":
        return None
    return ConfigError(
        "`weight_bit_allocation` gives each channel its own bits and must have "
        "`weight_granularity='per_channel'`. Received: 'per_tensor'. Change one of the two.",
        key=("weight_granularity",),
    )


def _idle_correction(corrects: bool, mean: str, variance: bool) -> ConfigError | None:
    if not corrects or mean != "none" or variance:
        return None
    return ConfigError(
        "`bias_correction` must correct something. Received: `mean_correction='none'` and "
        "`variance_correction=False`. Set `bias_correction=False`, or one of the two.",
        key=("mean_correction",),
    )


def _rule_for_no_layer(match: str | None, layer_type: str | None) -> ConfigError | None:
    if match is not None or layer_type is not None:
        return None
    return ConfigError(
        "A LayerRule must name its layers. Received: neither `match` nor `layer_type`. "
        "Give one of them, or change the config's own fields to mean every layer."
    )


# What a rule can say of layers that it does not leave in float.
OVERRIDES = ("weight_bits", "activation_bits", "activation_clipping")


def _float_layer_with_values(quantize: bool, *overrides: Any) -> ConfigError | None:
    given = {
        name: value for name, value in zip(OVERRIDES, overrides, strict=True) if value is not None
    }
    if quantize or not given:
        return None
    received = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return ConfigError(
        "A LayerRule with `quantize=False` must set nothing else, for its layers stay in float. "
        f"Received: {received}. Drop the other values, or `quantize=False`.",
        key=(next(iter(given)),),
    )


OF_CONFIGS = (
    Contradiction(("minimum_bits", "maximum_bits"), _bounds),
    *_allocation("weight"),
    *_allocation("activation"),
    Contradiction(("weight_bit_allocation", "weight_granularity"), _one_scale_for_many_widths),
    Contradiction(("bias_correction", "mean_correction", "variance_correction"), _idle_correction),
)

OF_RULES = (
    Contradiction(("match", "layer_type"), _rule_for_no_layer),
    Contradiction(("quantize", *OVERRIDES), _float_layer_with_values),
)
