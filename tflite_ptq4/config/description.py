"""A config in one line, for people."""

from __future__ import annotations

from tflite_ptq4.config import QuantizationConfig


def describe(config: QuantizationConfig) -> str:
    """What is chosen for weights, for activations and for single layers, in one line."""
    weights = [config.weight_scale, f"{config.weight_rounding} rounding"]
    weights += ["refit"] * config.refit_weights
    weights += ["bias correction"] * config.bias_correction
    ends = (("first", "first_layer_bits"), ("last", "last_layer_bits"))
    for label, name in (*ends, ("depthwise", "depthwise_weight_bits")):
        if getattr(config, name) is not None:
            weights.append(f"{label} {getattr(config, name)}")
    if config.weight_bit_budget is not None:
        weights.append(f"budget {config.weight_bit_budget:g}")
    activations = [config.activation_clipping]
    if config.signed_activation_bits is not None:
        activations.append(f"signed {config.signed_activation_bits}")
    if config.activation_bit_budget is not None:
        activations.append(f"budget {config.activation_bit_budget:g}")
    granularity = "per_channel" if config.needs_per_channel_activations else "per_tensor"
    parts = [
        _described("weights", config.mean_weight_bits, config.weight_bit_allocation)
        + f" {config.weight_granularity} ({', '.join(weights)})",
        _described("activations", config.mean_activation_bits, config.activation_bit_allocation)
        + f" {granularity} ({', '.join(activations)})",
    ]
    parts += ["output matching"] * config.output_matching
    if config.rules:
        parts.append(f"{len(config.rules)} layer rule{'s' * (len(config.rules) > 1)}")
    return ", ".join(parts)


def _described(what: str, mean: float, allocation: str) -> str:
    if allocation == "none":
        return f"{what} {mean:g} bits"
    return f"{what} {mean:g} bits on average ({allocation} allocation)"
