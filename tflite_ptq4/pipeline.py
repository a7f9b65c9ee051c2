"""The whole way in one call: statistics and config to a plan, weights, simulation and files."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from tflite_ptq4 import __version__
from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ConfigError, StatisticsError
from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.image_count import images_for
from tflite_ptq4.input_arrays import finite_arrays
from tflite_ptq4.input_shapes import InputShapes, fixed_input_shapes
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.progress import Track
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.report.rows import build_report
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.weights.layer_weights import LayerWeights
from tflite_ptq4.weights.quantized_weights import quantize_weights

if TYPE_CHECKING:
    import keras

    from tflite_ptq4.keras_side.float_files import FloatFiles
    from tflite_ptq4.keras_side.lowering import LoweredModel


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A quantized network: look at it, evaluate it, write it.

    Attributes:
        plan: bits, scale and clip of every tensor.
        weights: integers, scales and biases of every quantized layer.
        lowered: the float network, as a graph.
        float_files: the float network, as files.
        make_report: makes the report.
    """

    plan: QuantizationPlan
    weights: Mapping[str, LayerWeights]
    lowered: LoweredModel = field(repr=False)
    float_files: FloatFiles = field(repr=False)
    make_report: Callable[[], QuantizationReport] = field(repr=False)

    @cached_property
    def report(self) -> QuantizationReport:
        """What the quantization cost, layer by layer; made when it is first asked for."""
        return self.make_report()

    @cached_property
    def simulated_model(self) -> keras.Model:
        """A Keras model that computes in float what the exported file computes."""
        from tflite_ptq4.keras_side.simulate import simulate

        return simulate(self.lowered, self.plan, self.weights)

    def to_tflite(
        self,
        target: str | None = None,
        *,
        io: str = "float32",
        layout: str = "fast",
        input_shapes: InputShapes | None = None,
        dynamic_batch: bool = False,
    ) -> bytes:
        """The network as a .tflite file, read back and checked against the plan.

        Args:
            target: "int8_container", "packed_int4" or "float_simulated"; the config's default
                where None.
            io: type of inputs and outputs, "float32" or "int8".
            layout: of "packed_int4": "fast" packs weights where that is accelerated, "smallest"
                wherever it loads.
            input_shapes: of a model that takes any size, (height, width, channels) of its input in
                the file, or such shapes by the names of inputs; the sizes of the images that the
                model was quantized with where None.
            dynamic_batch: whether the inputs can be resized to any number of images at run time;
                otherwise the file takes one at a time.

        Returns:
            The flatbuffer.

        Raises:
            ConfigError: `input_shapes` contradicts the model, or leaves a size open.
            ModelError: a layer cannot compute at these sizes.
            TargetError: the target cannot hold the plan, or a layer not the dynamic batch.
        """
        from tflite_ptq4.converters import ExportSource, export

        source = ExportSource(
            float_file=self._float_file(input_shapes),
            graph=self.lowered.graph,
            plan=self.plan,
            weights=self.weights,
            package_version=__version__,
        )
        target = target or self.plan.config.default_target
        return export(source, target=target, io=io, layout=layout, dynamic_batch=dynamic_batch)

    def save(
        self,
        path: str | os.PathLike[str],
        target: str | None = None,
        *,
        io: str = "float32",
        layout: str = "fast",
        input_shapes: InputShapes | None = None,
        dynamic_batch: bool = False,
    ) -> None:
        """Write the .tflite file; a file that is there is replaced only by a whole one.

        Args:
            path: where to.
            target: as in `to_tflite`.
            io: as in `to_tflite`.
            layout: as in `to_tflite`.
            input_shapes: as in `to_tflite`.
            dynamic_batch: as in `to_tflite`.

        Raises:
            ConfigError: as in `to_tflite`.
            ModelError: as in `to_tflite`.
            TargetError: as in `to_tflite`.
            OutputError: the path is not writable.
        """
        content = self.to_tflite(
            target, io=io, layout=layout, input_shapes=input_shapes, dynamic_batch=dynamic_batch
        )
        write_bytes(path, content)

    def _float_file(self, asked: InputShapes | None) -> FloatFile:
        """The float network as a file of these input sizes."""
        own, known = self.lowered.trace.image_shapes, self.lowered.graph.shapes
        shapes = fixed_input_shapes(own, {name: known[name][1:] for name in own}, asked)
        return self.float_files.of(shapes, self.weights)


def quantize_model(
    model: keras.Model,
    statistics: CalibrationStatistics,
    config: QuantizationConfig,
    images: ArrayLike | Sequence[ArrayLike] | Mapping[str, object] | None = None,
    *,
    sensitivity: bool = False,
    progress: Track | None = None,
) -> QuantizedModel:
    """Quantize a Keras model after training, from calibration statistics.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras; it is not changed.
        statistics: what `CalibrationCallback` gathered of this model.
        config: the choices, e.g. `QuantizationConfig.preset("w4a8")`.
        images: [n, ...], prepared as the model expects them, for the corrections that run both
            networks layer by layer; of a model of several inputs a list of such arrays, or a dict
            by name, as for `model.predict`. Without images those corrections are left out, and the
            report's config says so. Of a model that takes any size, a file gets the images' size
            unless another is asked for.
        sensitivity: whether the report also tells how much the outputs lose when each layer alone
            is quantized, which takes `images`, and about five times what predicting them does.
        progress: shows how far each long step is, e.g. `tflite_ptq4.progress.track`; it takes what
            is done and the list of what that is done to. None shows nothing.

    Returns:
        The quantized model.

    Raises:
        ConfigError: `config` is not a QuantizationConfig.
        ModelError: the model has no symbolic graph, nothing in it can be quantized, or a layer
            cannot compute at the size of the images.
        StatisticsError: the statistics are of another model, or none.
        DataError: the images do not fit the model, or are not finite.
    """
    from tflite_ptq4.keras_side.lowering import lower

    require_types(statistics, config)
    return quantize_lowered(
        lower(model), statistics, config, images, sensitivity=sensitivity, progress=progress
    )


def quantize_lowered(
    lowered: LoweredModel,
    statistics: CalibrationStatistics,
    config: QuantizationConfig,
    images: ArrayLike | Sequence[ArrayLike] | Mapping[str, object] | None = None,
    *,
    float_files: FloatFiles | None = None,
    sensitivity: bool = False,
    progress: Track | None = None,
) -> QuantizedModel:
    """`quantize_model` for a model that is lowered already.

    Args:
        lowered: the model.
        statistics: as there.
        config: as there.
        images: as there.
        float_files: of the model, where some are made already.
        sensitivity: as there.
        progress: as there.

    Returns:
        As there.

    Raises:
        ModelError: as there.
        StatisticsError: as there.
        DataError: as there.
    """
    from tflite_ptq4.keras_side.bit_ranking import measured_for_budgets
    from tflite_ptq4.keras_side.float_files import FloatFiles
    from tflite_ptq4.keras_side.layer_by_layer.layerwise import quantize_layer_by_layer
    from tflite_ptq4.keras_side.lowering import require_quantizable
    from tflite_ptq4.keras_side.tensor_specs import at_sizes

    def step(description: str) -> Callable | None:
        return None if progress is None else partial(progress, description)

    name = lowered.model.name
    require_quantizable(lowered.graph, name)
    if statistics.fingerprint != lowered.graph.fingerprint:
        raise StatisticsError(
            "`statistics` must come from this model, with these weights and sizes of its inputs. "
            f"Received: statistics of {statistics.fingerprint}, while {name!r} is "
            f"{lowered.graph.fingerprint}. Calibrate this model."
        )
    given = None
    if images is None:
        config = config.without_images()
    else:
        names = lowered.trace.inputs
        arrays = finite_arrays(dict(zip(names, lowered.trace.unpack(images), strict=True)))
        sizes = {name: array.shape[1:] for name, array in zip(names, arrays, strict=True)}
        lowered = at_sizes(lowered, sizes)
        corrected_on = [images_for(arrays, config.effort, varied=config.varied_images)]
        given = arrays if sensitivity else None
        del arrays  # decoded photographs take as much memory as the corrections
    ranking = None
    if images is not None:
        shown = step("Ranking layers")
        ranking = measured_for_budgets(lowered, statistics, config, corrected_on[0], progress=shown)
    plan = build_plan(lowered.graph, statistics, config, ranking)
    if images is None:
        weights, sqnr = quantize_weights(lowered.graph, plan, statistics), {}
    else:
        shown = step("Quantizing")
        # Handed over, so that the corrections can let go of the images.
        weights, sqnr = quantize_layer_by_layer(
            lowered, plan, corrected_on.pop(), keeps_unrounded=sensitivity, progress=shown
        )
    measured = {}
    if given is not None:
        from tflite_ptq4.keras_side.sensitivity import measure_sensitivity

        shown = step("Measuring layers")
        measured = measure_sensitivity(lowered, plan, weights, statistics, given, progress=shown)
    return QuantizedModel(
        plan=plan,
        weights=weights,
        lowered=lowered,
        float_files=float_files or FloatFiles(lowered),
        make_report=partial(
            build_report,
            lowered.graph,
            plan,
            weights,
            sqnr,
            statistics=statistics,
            sensitivity=measured,
            model=name,
            package_version=__version__,
        ),
    )


def require_types(statistics: object, config: object) -> None:
    """Refuse what is often passed by mistake: the name of a preset, a callback, the images.

    Args:
        statistics: must be CalibrationStatistics.
        config: must be a QuantizationConfig.

    Raises:
        ConfigError: `config` is something else.
        StatisticsError: `statistics` is.
    """
    if not isinstance(config, QuantizationConfig):
        raise ConfigError(
            f"`config` must be a QuantizationConfig. Received: {reprlib.repr(config)}. Of a "
            "preset's name, QuantizationConfig.preset('w4a8') makes one."
        )
    if not isinstance(statistics, CalibrationStatistics):
        raise StatisticsError(
            "`statistics` must be CalibrationStatistics. Received: a "
            f"{type(statistics).__name__}. Call calibrate(model, images), or take `statistics` of "
            "a CalibrationCallback."
        )
