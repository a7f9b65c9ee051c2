"""4-bit post-training quantization of Keras conv nets for TensorFlow Lite (LiteRT).

After Banner, Nahshan, Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment" (NeurIPS 2019, arXiv 1810.05723).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.errors import (
    ConfigError,
    DataError,
    DeviceError,
    FileFormatError,
    ModelError,
    OutputError,
    Ptq4Error,
    ReadbackError,
    StatisticsError,
    TargetError,
)
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

if TYPE_CHECKING:
    from tflite_ptq4.keras_side.calibration.array_calibration import calibrate
    from tflite_ptq4.keras_side.calibration.callback import CalibrationCallback
    from tflite_ptq4.pipeline import QuantizedModel, quantize_model
    from tflite_ptq4.quantization_monitor import PostTrainingQuantizationMonitor
    from tflite_ptq4.tensorboard_summaries import write_summaries

__version__ = version("tflite-ptq4")

__all__ = [
    # Calibration
    "CalibrationCallback",
    "CalibrationStatistics",
    "calibrate",
    # Quantization
    "LayerRule",
    "PostTrainingQuantizationMonitor",
    "QuantizationConfig",
    "QuantizationPlan",
    "QuantizedModel",
    "quantize_model",
    "write_summaries",
    # Errors
    "ConfigError",
    "DataError",
    "DeviceError",
    "FileFormatError",
    "ModelError",
    "OutputError",
    "Ptq4Error",
    "ReadbackError",
    "StatisticsError",
    "TargetError",
]

# TensorFlow takes seconds to load: these names load it when they are first used.
_LOADED_ON_USE = {
    "CalibrationCallback": "tflite_ptq4.keras_side.calibration.callback",
    "calibrate": "tflite_ptq4.keras_side.calibration.array_calibration",
    "PostTrainingQuantizationMonitor": "tflite_ptq4.quantization_monitor",
    "QuantizedModel": "tflite_ptq4.pipeline",
    "quantize_model": "tflite_ptq4.pipeline",
    "write_summaries": "tflite_ptq4.tensorboard_summaries",
}


def __getattr__(name: str) -> Any:
    """Load the part that a name comes from."""
    if name in _LOADED_ON_USE:
        return getattr(import_module(_LOADED_ON_USE[name]), name)
    raise AttributeError(f"module 'tflite_ptq4' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
