"""The whole way in one call: statistics and config to a plan, weights, simulation and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tflite_ptq4 import __version__
from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import DataError, StatisticsError
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.planning import build_plan
from tflite_ptq4.quantized_weights import LayerWeights, quantize_weights
from tflite_ptq4.report import QuantizationReport, build_report
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

if TYPE_CHECKING:
    import keras

    from tflite_ptq4.keras_side.float_tflite import FloatFile
    from tflite_ptq4.keras_side.lowering import LoweredModel


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A quantized network: look at it, evaluate it, write it.

    Attributes:
        plan: bits, scale and clip of every tensor.
        weights: integers, scales and biases of every quantized layer.
        report: what it cost, layer by layer.
    """

    plan: QuantizationPlan
    weights: Mapping[str, LayerWeights]
    report: QuantizationReport
    _lowered: LoweredModel = field(repr=False)

    @cached_property
    def simulated_model(self) -> keras.Model:
        """A Keras model that computes in float what the exported file computes."""
        from tflite_ptq4.keras_side.simulate import simulate

        return simulate(self._lowered, self.plan, self.weights)

    def to_tflite(
        self, target: str | None = None, *, io: str = "float32", layout: str = "fast"
    ) -> bytes:
        """The network as a .tflite file, read back and checked against the plan.

        Args:
            target: "int8_container", "packed_int4" or "float_simulated"; the config's default
                where None.
            io: type of inputs and outputs, "float32" or "int8".
            layout: of "packed_int4": "fast" packs weights where that is accelerated, "smallest"
                wherever it loads.

        Returns:
            The flatbuffer.

        Raises:
            TargetError: the target cannot hold the plan.
        """
        from tflite_ptq4.converters import ExportSource, export

        file = self._float_file
        source = ExportSource(
            float_data=file.data,
            read_keys=file.read_keys,
            written_keys=file.written_keys,
            input_names=file.input_names,
            output_names=file.output_names,
            graph=self._lowered.graph,
            plan=self.plan,
            weights=self.weights,
            description=f"tflite-ptq4 {__version__}: {self.plan.config.describe()}",
        )
        target = target or self.plan.config.default_target
        return export(source, target=target, io=io, layout=layout)

    def save(
        self,
        path: str | os.PathLike[str],
        target: str | None = None,
        *,
        io: str = "float32",
        layout: str = "fast",
    ) -> None:
        """Write the .tflite file; a file that is there is replaced only by a whole one.

        Args:
            path: where to.
            target: as in `to_tflite`.
            io: as in `to_tflite`.
            layout: as in `to_tflite`.

        Raises:
            TargetError: the target cannot hold the plan.
            OutputError: the path is not writable.
        """
        write_bytes(path, self.to_tflite(target, io=io, layout=layout))

    @cached_property
    def _float_file(self) -> FloatFile:
        from tflite_ptq4.keras_side.float_tflite import to_float_tflite

        return to_float_tflite(self._lowered)


def quantize_model(
    model: keras.Model,
    statistics: CalibrationStatistics,
    config: QuantizationConfig,
    images: ArrayLike | None = None,
    *,
    progress: Callable | None = None,
) -> QuantizedModel:
    """Quantize a Keras model after training, from calibration statistics.

    Args:
        model: a built functional or Sequential Keras 3 model; it is not changed.
        statistics: what `CalibrationCallback` gathered of this model.
        config: the choices, e.g. `QuantizationConfig.preset("w4a8")`.
        images: float32 [n, ...], prepared as the model expects them, for the corrections that run
            both networks layer by layer. Without images those corrections are left out, and the
            report's config says so.
        progress: wraps the list of operators and shows how far it is; None shows nothing.

    Returns:
        The quantized model.

    Raises:
        ModelError: the model has no symbolic graph, or nothing in it can be quantized.
        StatisticsError: the statistics are of another model.
        DataError: the images do not fit the model, or are not finite.
    """
    from tflite_ptq4.keras_side.layerwise import quantize_layer_by_layer
    from tflite_ptq4.keras_side.lowering import lower, require_quantizable

    lowered = lower(model)
    require_quantizable(lowered.graph, model.name)
    if statistics.fingerprint != lowered.graph.fingerprint:
        raise StatisticsError(
            f"`statistics` must come from this model with these weights. Received: statistics of "
            f"{statistics.fingerprint}, while {model.name!r} is {lowered.graph.fingerprint}. "
            "Calibrate this model."
        )
    if images is None:
        config = config.without_images()
    plan = build_plan(lowered.graph, statistics, config)
    if images is None:
        weights, sqnr = quantize_weights(lowered.graph, plan, statistics), {}
    else:
        checked = _checked_images(images, lowered)
        weights, sqnr = quantize_layer_by_layer(lowered, plan, checked, progress=progress)
    return QuantizedModel(
        plan=plan,
        weights=weights,
        report=build_report(lowered.graph, plan, weights, sqnr),
        _lowered=lowered,
    )


def _checked_images(images: ArrayLike, lowered: LoweredModel) -> np.ndarray:
    from tflite_ptq4.keras_side.calibration import check_images

    array = np.asarray(images, dtype=np.float32)
    check_images(array, lowered)
    if not np.isfinite(array).all():
        raise DataError(
            "`images` must be finite. Received: NaN or Inf in "
            f"{int((~np.isfinite(array)).any(axis=tuple(range(1, array.ndim))).sum())} of "
            f"{len(array)} images. Check how they are prepared."
        )
    return array
