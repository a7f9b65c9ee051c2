"""From plan and weights to TensorFlow Lite flatbuffers, one module per target."""

from __future__ import annotations

from collections.abc import Callable

from tflite_ptq4.converters.dynamic_batch import open_batch
from tflite_ptq4.converters.export_source import ExportSource
from tflite_ptq4.converters.file_metadata import add_metadata
from tflite_ptq4.converters.flatbuffer_model import serialize
from tflite_ptq4.converters.float_simulated import export_float_simulated
from tflite_ptq4.converters.int8_container import export_int8_container
from tflite_ptq4.converters.packed_int4 import export_packed_int4
from tflite_ptq4.converters.readback import check_file
from tflite_ptq4.converters.schema import ModelT
from tflite_ptq4.errors import TargetError
from tflite_ptq4.targets import IO_TYPES, LAYOUTS, TARGETS

_WRITERS: dict[str, Callable[..., ModelT]] = {
    "float_simulated": export_float_simulated,
    "int8_container": export_int8_container,
    "packed_int4": export_packed_int4,
}

__all__ = ["ExportSource", "export"]


def export(
    source: ExportSource,
    *,
    target: str,
    io: str = "float32",
    layout: str = "fast",
    dynamic_batch: bool = False,
) -> bytes:
    """Write a plan and its weights as a .tflite file, read it back and check it against the plan.

    Args:
        source: the float file, plan and weights.
        target: one of `targets.TARGETS`.
        io: type of inputs and outputs, "float32" or "int8".
        layout: of `packed_int4`: "fast" packs weights where that is accelerated, "smallest"
            wherever it loads.
        dynamic_batch: whether the file takes any number of images at a time, and not just one.

    Returns:
        The flatbuffer.

    Raises:
        TargetError: target, io or layout is unknown, or the target cannot hold the plan, or an
            operator not a dynamic batch.
        ReadbackError: the bytes do not hold what the plan says.
    """
    for argument, value, known in (
        ("target", target, TARGETS),
        ("io", io, IO_TYPES),
        ("layout", layout, LAYOUTS),
    ):
        if value not in known:
            raise TargetError(
                f"`{argument}` must be one of {', '.join(known)}. Received: {value!r}. Choose one."
            )
    options = {"layout": layout} if target == "packed_int4" else {}
    model = _WRITERS[target](source, io=io, **options)
    if dynamic_batch:
        model = open_batch(model, source.graph)
    add_metadata(model, source, {"target": target, **options, "io": io})
    data = serialize(model)
    check_file(data, source, target=target)
    return data
