"""The `QuantizeScheme` of TFMOT whose layout and ranges are those of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tf_keras
from numpy.typing import ArrayLike
from tensorflow_model_optimization.quantization.keras import (
    QuantizeLayoutTransform,
    QuantizeRegistry,
    QuantizeScheme,
)

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ConfigError
from tflite_ptq4.keras_side.tf_keras_models.twin import Twin
from tflite_ptq4.pipeline import QuantizedModel, quantize_model, require_types
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.tfmot.annotations import rules_of
from tflite_ptq4.tfmot.layout import Layout
from tflite_ptq4.tfmot.quantize_configs import CONFIGS, Ptq4QuantizeConfig
from tflite_ptq4.tfmot.quantizers import Ptq4ActivationQuantizer, Ptq4WeightQuantizer


class Ptq4QuantizeScheme(QuantizeScheme):
    """Quantizes an annotated model after training; no training step is needed.

        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        with tfmot.quantization.keras.quantize_scope(Ptq4QuantizeScheme.custom_objects()):
            quantized = tfmot.quantization.keras.quantize_apply(
                annotated, scheme=Ptq4QuantizeScheme(statistics, config, images)
            )

    BatchNormalization is folded into the layer before it, and goes with that layer whether it is
    annotated or not; so does a ReLU. Layers that are not annotated stay in float.

    Args:
        statistics: what `CalibrationCallback` or `calibrate` gathered of the model, before it was
            annotated.
        config: the choices, e.g. `QuantizationConfig.preset("w4a8")`.
        images: as for `quantize_model`; without them the corrections that run both networks are
            left out.

    Raises:
        ConfigError: the config is none, or asks for a scale for each channel of an activation.
        StatisticsError: the statistics are none.
    """

    def __init__(
        self,
        statistics: CalibrationStatistics,
        config: QuantizationConfig,
        images: ArrayLike | Sequence[ArrayLike] | Mapping[str, object] | None = None,
    ) -> None:
        require_types(statistics, config)
        if config.needs_per_channel_activations:
            raise ConfigError(
                "A TFMOT model must have one scale for each activation, as TFLite has. Received: a "
                "config that clips activations, or allocates their bits, per channel "
                f"(activation_granularity={config.activation_granularity!r}, "
                f"activation_bit_allocation={config.activation_bit_allocation!r}). Choose a preset "
                "such as w4a4, or call tflite_ptq4.quantize_model and export float_simulated."
            )
        self._statistics, self._config, self._images = statistics, config, images
        self._decided: dict[str, Ptq4QuantizeConfig] = {}
        self._quantized: QuantizedModel | None = None

    @staticmethod
    def custom_objects() -> dict[str, type]:
        """What `quantize_scope` needs to know to copy, save and load the models."""
        classes = (*CONFIGS, Ptq4WeightQuantizer, Ptq4ActivationQuantizer)
        return {found.__name__: found for found in classes}

    @property
    def quantized(self) -> QuantizedModel:
        """What `quantize_apply` did: plan, report and weights, before any fine-tuning.

        Raises:
            ConfigError: the scheme was not applied yet.
        """
        if self._quantized is None:
            raise ConfigError("The scheme must be applied first: call quantize_apply with it.")
        return self._quantized

    def get_layout_transformer(self) -> QuantizeLayoutTransform:
        """What folds and quantizes the model."""
        return _LayoutTransform(self)

    def get_quantize_registry(self) -> QuantizeRegistry:
        """The configs that were decided, by the layers of the folded model."""
        return _Registry(self._decided)

    def apply(
        self, model: tf_keras.Model, annotations: Mapping[str, Mapping]
    ) -> tuple[tf_keras.Model, dict[str, dict]]:
        """Quantize a model.

        Args:
            model: the float model; it is not changed.
            annotations: for each annotated layer TFMOT's metadata.

        Returns:
            The folded model, with the quantized weights, and the metadata of its layers.
        """
        inputs = list(self._statistics)[: len(model.inputs)]
        twin = Twin(model, input_names=inputs)
        config = self._config.replace(rules=(*self._config.rules, *rules_of(model, annotations)))
        self._quantized = quantize_model(twin.model, self._statistics, config, self._images)
        layout = Layout(self._quantized, twin, annotations)
        self._decided.clear()
        self._decided.update(layout.decided)
        return layout.model, layout.metadata


class _LayoutTransform(QuantizeLayoutTransform):
    def __init__(self, scheme: Ptq4QuantizeScheme) -> None:
        self._scheme = scheme

    def apply(self, model, layer_quantize_map):
        return self._scheme.apply(model, layer_quantize_map)


class _Registry(QuantizeRegistry):
    def __init__(self, decided: Mapping[str, Ptq4QuantizeConfig]) -> None:
        self._decided = decided

    def supports(self, layer) -> bool:
        return layer.name in self._decided

    def get_quantize_config(self, layer) -> Ptq4QuantizeConfig:
        return self._decided[layer.name]
