"""From plan and weights to TensorFlow Lite flatbuffers, one module per target."""

from __future__ import annotations

from tflite_ptq4.converters.export_source import ExportSource
from tflite_ptq4.converters.float_simulated import export_float_simulated
from tflite_ptq4.converters.int8_container import export_int8_container
from tflite_ptq4.converters.readback import check_file
from tflite_ptq4.errors import TargetError
from tflite_ptq4.targets import TARGETS

_WRITERS = {
    "float_simulated": export_float_simulated,
    "int8_container": export_int8_container,
}

IO_TYPES = ("float32", "int8")

__all__ = ["IO_TYPES", "ExportSource", "export"]


def export(source: ExportSource, *, target: str, io: str = "float32") -> bytes:
    """Write a plan and its weights as a .tflite file, read it back and check it against the plan.

    Args:
        source: the float file, plan and weights.
        target: one of `targets.TARGETS`.
        io: type of inputs and outputs, "float32" or "int8".

    Returns:
        The flatbuffer.

    Raises:
        TargetError: the target or io is unknown, or cannot hold the plan.
        ReadbackError: the bytes do not hold what the plan says.
    """
    if target not in _WRITERS:
        raise TargetError(
            f"`target` must be one of {', '.join(TARGETS)}. Received: {target!r}. Choose one."
        )
    if io not in IO_TYPES:
        raise TargetError(
            f"`io` must be one of {', '.join(IO_TYPES)}. Received: {io!r}. Choose one."
        )
    data = _WRITERS[target](source, io=io)
    check_file(data, source, target=target)
    return data
