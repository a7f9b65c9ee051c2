"""What `tflite-ptq4 quantize` is asked for, refused early where it cannot be done."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tflite_ptq4.cli.arguments import DEFAULT_PRESET
from tflite_ptq4.cli.files import check_folder, check_images, check_output, images_from
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ConfigError, DataError, TargetError
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.input_arrays import Images
from tflite_ptq4.input_shapes import Shape, fixed_input_shapes
from tflite_ptq4.keras_side.load_model import check_model_file
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics


def requested_config(arguments: argparse.Namespace) -> QuantizationConfig:
    """Return the config of the recipe or the preset, at the effort that is asked for."""
    if arguments.recipe is not None:
        config = QuantizationConfig.from_yaml(arguments.recipe)
    else:
        config = QuantizationConfig.preset(arguments.preset or DEFAULT_PRESET)
    return config if arguments.effort is None else config.replace(effort=arguments.effort)


def requested_target(arguments: argparse.Namespace, config: QuantizationConfig) -> str:
    """Return the export target, or refuse one that cannot hold what the config asks for."""
    target = arguments.target or config.default_target
    reason = config.float_only
    if target != "float_simulated" and reason is not None:
        raise TargetError(
            f"The target {target!r} {reason.must}. Received: a recipe with {reason.received}. Use "
            f"--target float_simulated, or another recipe, such as --preset w4a4, or set "
            f"{reason.change}."
        )
    if target == "float_simulated" and arguments.io != "float32":
        raise TargetError(
            "The target 'float_simulated' must have float32 input and output. Received: --io "
            f"{arguments.io}. Leave it out, or use --target int8_container."
        )
    return target


def checked_inputs(arguments: argparse.Namespace) -> CalibrationStatistics | None:
    """Refuse what can be refused before TensorFlow is loaded; return the saved statistics."""
    check_model_file(arguments.model, arguments.framework)
    if arguments.calibration is not None:
        check_images(arguments.calibration)
    elif arguments.statistics is None:
        raise ConfigError("Calibration needs images or statistics: give --calibration PATH.")
    inputs = (arguments.model, arguments.calibration, arguments.statistics, arguments.recipe)
    check_output(arguments.output, inputs=inputs)
    if arguments.plan is not None:
        check_output(arguments.plan, inputs=(*inputs, arguments.output))
    if arguments.data is not None:
        check_images(arguments.data)
    if arguments.report is not None:
        check_folder(arguments.report)
    elif arguments.accuracy_over_bits:
        raise ConfigError("--accuracy-over-bits is drawn in the report: give --report DIR.")
    if arguments.model_explorer is not None:
        check_folder(arguments.model_explorer)
    return (
        None if arguments.statistics is None else CalibrationStatistics.load(arguments.statistics)
    )


def images_to_compare_on(
    arguments: argparse.Namespace, own: Mapping[str, Shape], calibration: ImageSet | None
) -> ImageSet | None:
    """Return the images of --data, otherwise those of the calibration."""
    images = calibration
    if arguments.data is not None:
        images = images_from(arguments.data, arguments, own, samples=None)
    if arguments.accuracy_over_bits and (images is None or images.labels is None):
        raise DataError(
            "--accuracy-over-bits must have images with labels. Received: "
            f"{'none' if images is None else str(arguments.data or arguments.calibration)}. "
            "Give them with --data."
        )
    return images


def fixed_shapes(
    arguments: argparse.Namespace, own: Mapping[str, Shape], images: Mapping[str, Images] | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input in the file, or refuse one before any long work."""
    known = own if images is None else {name: images[name].shape[1:] for name in own}
    asked = None
    if arguments.input_size is not None:
        to_change = [name for name, shape in own.items() if None in shape] or list(own)
        asked = {name: (*arguments.input_size, *own[name][2:]) for name in to_change}
    return fixed_input_shapes(own, known, asked)
