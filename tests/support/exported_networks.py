"""Every network of the tests, calibrated, quantized and exported once per test session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from unittest import mock

import keras
import keras_networks
import numpy as np
import wider_networks  # noqa: F401 - it registers its networks

from tflite_ptq4 import CalibrationCallback, QuantizationConfig, converters, quantize_model
from tflite_ptq4.converters import ExportSource
from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.keras_side import float_tflite
from tflite_ptq4.pipeline import QuantizedModel
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.targets import LAYOUTS

# A budget gives some tensors of the 4-bit presets more; without it all have 4, signed ones too,
# through two QUANTIZE.
CONFIGS = {
    "w8a8": QuantizationConfig.preset("w8a8"),
    "w4a8": QuantizationConfig.preset("w4a8"),
    "w4a4": QuantizationConfig.preset("w4a4"),
    "w8a4": QuantizationConfig.preset("w8a4"),
    "w4a4_signed4": QuantizationConfig.preset("w4a4", activation_bit_budget=None),
    "paper_w4a4": QuantizationConfig.preset("paper_w4a4"),
}
INTEGER_CONFIGS = tuple(name for name in CONFIGS if name != "paper_w4a4")

# What is packed depends on the bits of the weights alone; the presets leave some layers at 8.
_FOUR_BITS_EVERYWHERE = QuantizationConfig.preset(
    "w4a4",
    activation_bit_budget=None,
    first_layer_bits=None,
    last_layer_bits=None,
    weight_bit_budget=None,
)
PACKED_CONFIGS = {"w4a8": CONFIGS["w4a8"], "w4a4_everywhere": _FOUR_BITS_EVERYWHERE}

# Every kind of integer file: (config, target, layout).
INTEGER_FILES = [
    *((config, "int8_container", "fast") for config in (*INTEGER_CONFIGS, "w4a4_everywhere")),
    *((config, "packed_int4", layout) for config in PACKED_CONFIGS for layout in LAYOUTS),
]


@dataclass(frozen=True, eq=False)
class Exported:
    """A quantized network with the images that it was calibrated on.

    Attributes:
        model: the float network.
        images: float32 [n, ...] for each input.
        quantized: what `quantize_model` gave.
    """

    model: keras.Model
    images: list[np.ndarray]
    quantized: QuantizedModel

    @cached_property
    def _files(self) -> dict[tuple[str, str, str], bytes]:
        return {}

    def file(
        self, target: str = "int8_container", io: str = "float32", layout: str = "fast"
    ) -> bytes:
        """The file of a target, written once."""
        key = (target, io, layout)
        if key not in self._files:
            with _one_conversion_per_model():
                self._files[key] = self.quantized.to_tflite(target=target, io=io, layout=layout)
        return self._files[key]

    @cached_property
    def simulated_outputs(self) -> list[np.ndarray]:
        """What the simulated model gives on the images, in the order of the file's outputs."""
        given = self.images[0] if len(self.images) == 1 else self.images
        outputs = self.quantized.simulated_model(given)
        return [np.asarray(output) for output in keras.tree.flatten(outputs)]

    def image(self, position: int) -> list[np.ndarray]:
        """One image as the inputs of a file."""
        return [images[position : position + 1] for images in self.images]

    def source(self) -> ExportSource:
        """What the converters are given."""
        with _one_conversion_per_model(), mock.patch.object(converters, "export") as export:
            self.quantized.to_tflite(target="int8_container")
        return export.call_args.args[0]


@cache
def exported(network: str, config: str) -> Exported:
    """A network quantized by a config of `CONFIGS` or `PACKED_CONFIGS`."""
    model, images, statistics = _calibrated(network)
    return export_model(model, images, statistics, {**CONFIGS, **PACKED_CONFIGS}[config])


def export_model(
    model: keras.Model,
    images: list[np.ndarray],
    statistics: CalibrationStatistics,
    config: QuantizationConfig,
) -> Exported:
    """A calibrated model quantized."""
    return Exported(model, images, quantize_model(model, statistics, config, images=images))


def calibrate(model: keras.Model, images: list[np.ndarray]) -> CalibrationStatistics:
    """Statistics of the images, by Keras callback."""
    calibration = CalibrationCallback(model)
    given = images[0] if len(images) == 1 else images
    model.predict(given, callbacks=[calibration], verbose=0)
    return calibration.statistics


@cache
def _calibrated(network: str) -> tuple[keras.Model, list[np.ndarray], CalibrationStatistics]:
    model = keras_networks.build(network)
    images = keras_networks.images_for(model)
    return model, images, calibrate(model, images)


_float_files: dict[str, FloatFile] = {}
_convert = float_tflite.to_float_tflite


@contextmanager
def _one_conversion_per_model() -> Iterator[None]:
    """While it lasts, TFLiteConverter runs once for all configs of one model, which share it."""

    def convert_once(lowered, input_shapes, replaced):
        key = f"{lowered.graph.fingerprint} {input_shapes} {sorted(replaced)}"
        if key not in _float_files:
            _float_files[key] = _convert(lowered, input_shapes, replaced)
        return _float_files[key]

    with mock.patch.object(float_tflite, "to_float_tflite", convert_once):
        yield
