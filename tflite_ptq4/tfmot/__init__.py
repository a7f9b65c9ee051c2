"""Quantization objects for TensorFlow Model Optimization, on the plan of this package."""

from __future__ import annotations

from tflite_ptq4.tfmot.quantize_configs import (
    Ptq4Conv1DQuantizeConfig,
    Ptq4Conv2DQuantizeConfig,
    Ptq4Conv2DTransposeQuantizeConfig,
    Ptq4DenseQuantizeConfig,
    Ptq4DepthwiseConv1DQuantizeConfig,
    Ptq4DepthwiseConv2DQuantizeConfig,
    Ptq4OutputQuantizeConfig,
    Ptq4QuantizeConfig,
    Ptq4SeparableConv1DQuantizeConfig,
    Ptq4SeparableConv2DQuantizeConfig,
)
from tflite_ptq4.tfmot.quantize_scheme import Ptq4QuantizeScheme
from tflite_ptq4.tfmot.quantized_model import to_quantized_model
from tflite_ptq4.tfmot.quantizers import Ptq4ActivationQuantizer, Ptq4WeightQuantizer

__all__ = [
    "Ptq4ActivationQuantizer",
    "Ptq4Conv1DQuantizeConfig",
    "Ptq4Conv2DQuantizeConfig",
    "Ptq4Conv2DTransposeQuantizeConfig",
    "Ptq4DenseQuantizeConfig",
    "Ptq4DepthwiseConv1DQuantizeConfig",
    "Ptq4DepthwiseConv2DQuantizeConfig",
    "Ptq4OutputQuantizeConfig",
    "Ptq4QuantizeConfig",
    "Ptq4QuantizeScheme",
    "Ptq4SeparableConv1DQuantizeConfig",
    "Ptq4SeparableConv2DQuantizeConfig",
    "Ptq4WeightQuantizer",
    "to_quantized_model",
]
