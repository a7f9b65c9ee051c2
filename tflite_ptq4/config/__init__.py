"""The choices of the method: their values, their checks, and the recipes that state them."""

from __future__ import annotations

from tflite_ptq4.config.quantization_config import QuantizationConfig

__all__ = ["QuantizationConfig"]
