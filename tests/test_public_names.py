from __future__ import annotations

import subprocess
import sys

import pytest

import tflite_ptq4
from tflite_ptq4 import errors


def test_the_names_that_stay() -> None:
    """What users write; renaming one of these breaks their scripts."""
    assert set(tflite_ptq4.__all__) == {
        "CalibrationCallback",
        "CalibrationStatistics",
        "ConfigError",
        "DataError",
        "DeviceError",
        "FileFormatError",
        "LayerRule",
        "ModelError",
        "OutputError",
        "PostTrainingQuantizationMonitor",
        "Ptq4Error",
        "QuantizationConfig",
        "QuantizationPlan",
        "QuantizedModel",
        "ReadbackError",
        "StatisticsError",
        "TargetError",
        "calibrate",
        "quantize_model",
        "write_summaries",
    }
    assert dir(tflite_ptq4) == sorted(tflite_ptq4.__all__)


def test_every_error_is_public_and_caught_by_its_parent() -> None:
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert raised <= set(tflite_ptq4.__all__)
    for name in raised:
        assert issubclass(getattr(tflite_ptq4, name), tflite_ptq4.Ptq4Error)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'quantise_model'"):
        tflite_ptq4.quantise_model  # noqa: B018


def test_names_load_tensorflow_only_when_used() -> None:
    script = """
import sys
import tflite_ptq4
from tflite_ptq4 import LayerRule, QuantizationConfig, CalibrationStatistics, QuantizationPlan
QuantizationConfig.preset("w4a8")
assert not {"tensorflow", "keras"} & set(sys.modules), "loaded too early"
from tflite_ptq4 import CalibrationCallback, QuantizedModel, calibrate, quantize_model
assert "keras" in sys.modules
for value in (CalibrationCallback, QuantizedModel, calibrate, quantize_model):
    print(value.__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "CalibrationCallback",
        "QuantizedModel",
        "calibrate",
        "quantize_model",
    ]
