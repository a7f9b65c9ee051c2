"""Statistics of activations: gathered image by image, merged exactly, saved and loaded."""

from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

__all__ = ["CalibrationStatistics", "TensorStatistics"]
