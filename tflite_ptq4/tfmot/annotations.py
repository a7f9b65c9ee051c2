"""What a user's annotations of layers ask for, as rules of the config."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from typing import Any

import tf_keras

from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.errors import ConfigError
from tflite_ptq4.keras_side.tf_keras_models.layers import carried_kind, keras_name
from tflite_ptq4.tfmot.quantize_configs import Ptq4QuantizeConfig

_SEVERAL_OPERATORS = ("Average", "LayerNormalization")

Annotations = Mapping[str, Mapping[str, Any]]


def rules_of(model: tf_keras.Model, annotations: Annotations) -> Iterator[LayerRule]:
    """A rule for each layer that is not to be quantized, or otherwise than the others.

    Nor is what becomes several operators that TFMOT has no layers for.

    Args:
        model: the float model.
        annotations: for each annotated layer TFMOT's metadata.

    Raises:
        ConfigError: a config is on a layer of another kind, or asks for bits of weights of a layer
            that has none.
    """
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.InputLayer):
            continue
        match = glob.escape(keras_name(layer))
        config = annotations.get(layer.name, {}).get("quantize_config")
        if layer.name not in annotations or is_foreign(config):
            yield LayerRule(match=match, quantize=False)
            continue
        if config is not None:
            _require_kind(layer, config)
            yield config.rule(match)
        if carried_kind(layer) in _SEVERAL_OPERATORS:
            yield LayerRule(match=match, quantize=False)
        elif getattr(layer, "activation", None) is tf_keras.activations.selu:
            yield LayerRule(match=match, quantize=False)
            yield LayerRule(match=f"{match}/linear")


def is_foreign(config: object) -> bool:
    """Whether a layer is annotated with a config of another scheme."""
    return config is not None and not isinstance(config, Ptq4QuantizeConfig)


def _require_kind(layer: tf_keras.layers.Layer, config: Ptq4QuantizeConfig) -> None:
    kind = carried_kind(layer) or type(layer).__name__
    if config.layer_types and kind not in config.layer_types:
        raise ConfigError(
            f"A {type(config).__name__} must be on a {' or '.join(config.layer_types)}. Received: "
            f"one on {layer.name!r}, a {kind}. Annotate it with the config of its kind."
        )
    if not config.layer_types and config.weight_bits is not None:
        raise ConfigError(
            f"A {type(config).__name__} must not set `weight_bits`, for its layers have no "
            f"weights. Received: weight_bits={config.weight_bits} on {layer.name!r}. Leave it out."
        )
