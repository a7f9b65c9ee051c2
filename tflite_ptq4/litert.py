"""`.tflite` files in LiteRT: opened, and run on real numbers whatever integers the file takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_ptq4.errors import FileFormatError, one_line
from tflite_ptq4.file_identifier import require_identifier
from tflite_ptq4.input_shapes import Shape


def open_interpreter(content: bytes, name: str, num_threads: int, *, keep_all: bool = False) -> Any:
    """Return LiteRT's interpreter of a file, ready to run.

    Args:
        content: of the `.tflite` file.
        name: what messages call it.
        num_threads: threads of the interpreter.
        keep_all: whether every tensor can be read after a run, those inside XNNPACK included.

    Raises:
        FileFormatError: it is not a TFLite file, or LiteRT cannot load it.
    """
    from ai_edge_litert.interpreter import Interpreter

    require_identifier(content, repr(name))
    try:
        with warnings.catch_warnings():
            # That keeping all tensors takes memory, and is for debugging.
            warnings.simplefilter("ignore", UserWarning)
            interpreter = Interpreter(
                model_content=content,
                num_threads=num_threads,
                experimental_preserve_all_tensors=keep_all,
            )
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (RuntimeError, ValueError) as error:
        raise FileFormatError(
            f"LiteRT must be able to load {name!r}, but reports: {one_line(error)}"
        ) from error
    if not inputs or not outputs:
        raise FileFormatError(
            f"{name!r} must have an input and an output, but has {len(inputs)} inputs and "
            f"{len(outputs)} outputs."
        )
    return interpreter


def interpreter_input_shapes(interpreter: Any) -> dict[str, Shape]:
    """Return the shape of each input without the batch axis, None for a side of any length."""
    return {
        key: tuple(None if side < 0 else int(side) for side in detail["shape_signature"][1:])
        for key, detail in input_details(interpreter).items()
    }


def input_details(interpreter: Any) -> dict[str, Any]:
    """Return the details of each input by its name: that of the signature, where there is one."""
    details = interpreter.get_input_details()
    if len(interpreter.get_signature_list()) != 1:
        return {detail["name"]: detail for detail in details}
    keys = interpreter.get_signature_runner().get_input_details()
    by_index = {detail["index"]: key for key, detail in keys.items()}
    return {by_index.get(detail["index"], detail["name"]): detail for detail in details}


def invoke(interpreter: Any, name: str, images: Sequence[np.ndarray]) -> None:
    """Run a file once.

    Args:
        interpreter: of the file.
        name: what messages call it.
        images: for each input one image, float32 [1, ...].

    Raises:
        FileFormatError: LiteRT cannot run it.
    """
    try:
        _resize(interpreter, [image.shape for image in images])
        for source, image in zip(interpreter.get_input_details(), images, strict=True):
            interpreter.set_tensor(source["index"], to_stored(image, source))
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        shapes = ", ".join(str(image.shape[1:]) for image in images)
        raise FileFormatError(
            f"LiteRT must be able to run {name!r} on an image of shape {shapes}, but reports: "
            f"{one_line(error)}."
        ) from error


def _resize(interpreter: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Let the inputs have these shapes, where they have not."""
    details = interpreter.get_input_details()
    other = [
        (detail["index"], shape)
        for detail, shape in zip(details, shapes, strict=True)
        if tuple(detail["shape"]) != shape
    ]
    for index, shape in other:
        interpreter.resize_tensor_input(index, shape)
    if other:
        interpreter.allocate_tensors()


def to_stored(image: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Return real numbers as an input stores them: `clip(rint(x / scale) + zero_point)`.

    Args:
        image: float32, in the shape of the input.
        tensor: details of the input.

    Raises:
        FileFormatError: an integer input states no scale.
    """
    dtype = np.dtype(tensor["dtype"])
    if dtype.kind == "f":
        return image.astype(dtype)
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    if scale == 0.0:
        raise FileFormatError(
            f"The integer input {tensor['name']!r} must state its scale. Received: none. Write the "
            "file with scales, or with float inputs."
        )
    integers = np.rint(image / np.float32(scale)) + zero_point
    return np.clip(integers, limits.min, limits.max).astype(dtype)


def real_values(values: np.ndarray, tensor: Mapping[str, Any]) -> np.ndarray:
    """Return what a tensor stands for, float32: `scale * (q - zero_point)` of integers.

    Args:
        values: as LiteRT holds them.
        tensor: LiteRT's details of the tensor.
    """
    scale, zero_point = tensor["quantization"]
    if values.dtype.kind == "f" or scale == 0.0:
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
