"""What a network answers on images, and how far its answers are from another network's.

The measures are pure functions of arrays. A model that can be run, Keras or TFLite, is one value,
`RunnableModel`; a model with several outputs is measured on its first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4.errors import DataError, FileFormatError, ModelError
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.input_arrays import Images
from tflite_ptq4.input_shapes import Shape
from tflite_ptq4.keras_side.load_model import input_shapes

if TYPE_CHECKING:
    import keras

TFLITE_IDENTIFIER = b"TFL3"

# Wraps the list of what is still to do, and shows how far it is.
Progress = Callable[[Sequence[int]], Iterable[int]]


def top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of images whose label is among the k largest outputs.

    Of equal outputs the lower class comes first, as with argmax: int8 outputs often tie.

    Args:
        logits: number array [N, classes].
        labels: integer array [N], in [0, classes).
        k: at least 1.

    Raises:
        DataError: shapes do not fit, or a label is not a class of the network.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise DataError(
            "Accuracy needs outputs [N, classes] and N labels, N above zero. "
            f"Received: shapes {logits.shape} and {labels.shape}."
        )
    classes = logits.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"Labels must be classes of the network, 0 to {classes - 1}. Image {wrong[0]} has the "
            f"label {labels[wrong[0]]}: give the labels in a labels.csv, or take them away."
        )
    own = logits[np.arange(len(labels)), labels][:, np.newaxis]
    earlier = np.arange(classes) < labels[:, np.newaxis]
    rank = np.sum((logits > own) | ((logits == own) & earlier), axis=1)
    return float(np.mean(rank < k))


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label has the largest output, see `top_k`."""
    return top_k(logits, labels, 1)


def top5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label is among the five largest outputs, see `top_k`."""
    return top_k(logits, labels, 5)


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the share of equal argmax on the last axis of two arrays [N, ..., classes]."""
    _check_same_shape(reference, other)
    return float(np.mean(np.argmax(reference, axis=-1) == np.argmax(other, axis=-1)))


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the signal-to-quantization-noise ratio of `other` in decibels.

    `10 log10(sum(reference^2) / sum((reference - other)^2))`; infinity for equal arrays.

    Args:
        reference, other: number arrays of one shape.
    """
    _check_same_shape(reference, other)
    reference = np.asarray(reference, np.float64)
    noise = float(np.sum((reference - other) ** 2))
    if noise == 0.0:
        return float("inf")
    signal = float(np.sum(reference**2))
    return 10.0 * float(np.log10(signal / noise)) if signal > 0.0 else float("-inf")


def _check_same_shape(reference: np.ndarray, other: np.ndarray) -> None:
    if reference.shape != other.shape or reference.size == 0:
        raise DataError(
            "Outputs that are compared must have one shape and not be empty. "
            f"Received: {reference.shape} and {other.shape}."
        )


@dataclass(frozen=True)
class EvaluationRow:
    """One model's measures.

    Attributes:
        name: the model's name.
        bytes: length of its file.
        top1, top5: share of images in [0, 1], None without labels.
        agreement: share of images with the same top class as the first model, 1 for the first.
        sqnr_db: SQNR of the outputs against the first model's, infinity for the first.
    """

    name: str
    bytes: int
    top1: float | None
    top5: float | None
    agreement: float
    sqnr_db: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR (no difference at all) is None, as JSON asks."""
        finite = np.isfinite(self.sqnr_db)
        return {**asdict(self), "sqnr_db": self.sqnr_db if finite else None}


@dataclass(frozen=True)
class RunnableModel:
    """A model that answers on images.

    Attributes:
        name: what tables call it.
        bytes: length of its file.
        input_shapes: for each input its shape without the batch axis, None for a side that may have
            any length.
        outputs: how many outputs it has; the first is measured.
        run: for each input, in that order, images float32 [N, ...], and a `Progress`, to the first
            output, float32 [N, ...].
    """

    name: str
    bytes: int
    input_shapes: Mapping[str, Shape]
    outputs: int
    run: Callable[[Sequence[Images], Progress | None], np.ndarray]


def keras_model(model: keras.Model, *, name: str, size: int, batch_size: int = 8) -> RunnableModel:
    """Return a Keras model in memory as a runnable model, `size` being its file's bytes."""
    return RunnableModel(
        name=name,
        bytes=size,
        input_shapes=input_shapes(model),
        outputs=len(model.outputs),
        run=lambda images, progress: predict_keras(model, images, batch_size, progress),
    )


def tflite_model(content: bytes, *, name: str, num_threads: int = 2) -> RunnableModel:
    """Return the content of a `.tflite` file as a runnable model.

    Raises:
        FileFormatError: it is not a TFLite file, or LiteRT cannot load it.
    """
    interpreter = _interpreter(content, name, num_threads)
    return RunnableModel(
        name=name,
        bytes=len(content),
        input_shapes={
            key: tuple(None if side < 0 else int(side) for side in detail["shape_signature"][1:])
            for key, detail in _inputs(interpreter).items()
        },
        outputs=len(interpreter.get_output_details()),
        run=partial(_run, interpreter, name),
    )


def predict_keras(
    model: keras.Model,
    images: Sequence[Images],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the first output of a Keras model on images.

    Args:
        model: a built model.
        images: for each input float32 [N, ...].
        batch_size: images per call; a model with a fixed batch size gets that one.
        progress: wraps the list of batches.

    Returns:
        float32 [N, ...].
    """
    import keras

    fixed = model.inputs[0].shape[0]
    size = fixed or batch_size
    outputs = []
    starts = range(0, len(images[0]), size)
    for start in progress(starts) if progress else starts:
        batch = [array[start : start + size] for array in images]
        count = len(batch[0])
        missing = size - count if fixed else 0
        padded = [np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) for part in batch]
        several = len(padded) > 1
        output = model.predict_on_batch(
            keras.tree.pack_sequence_as(model.input, padded) if several else padded[0]
        )
        while not hasattr(output, "shape"):
            output = next(iter(output.values() if isinstance(output, dict) else output))
        outputs.append(np.asarray(output, np.float32)[:count])
    return _classes_last(np.concatenate(outputs))


def predict_tflite(
    model: bytes | str | os.PathLike[str],
    images: Images,
    num_threads: int = 2,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the first output of a TFLite model on images, run in LiteRT one image at a time.

    An integer input is quantized, `clip(rint(x / scale) + zero_point)`; an integer output is
    dequantized, `scale * (q - zero_point)`.

    Args:
        model: content of a `.tflite` file of one input, or its path.
        images: float32 [N, ...].
        num_threads: threads of the interpreter.
        progress: wraps the list of images.

    Returns:
        float32 [N, ...].

    Raises:
        FileFormatError: it is not a TFLite file, or LiteRT cannot run it.
    """
    name = "the model" if isinstance(model, bytes) else os.fspath(model)
    content = model if isinstance(model, bytes) else read_model_file(model)
    return _run(_interpreter(content, name, num_threads), name, [images], progress)


def _run(
    interpreter: Any, name: str, images: Sequence[Images], progress: Progress | None
) -> np.ndarray:
    sources = _inputs(interpreter).values()
    result = interpreter.get_output_details()[0]
    outputs = []
    todo = range(len(images[0]))
    for index in progress(todo) if progress else todo:
        taken = [array[index : index + 1] for array in images]
        try:
            if index == 0:
                _resize(interpreter, [image.shape for image in taken])
            for source, image in zip(sources, taken, strict=True):
                interpreter.set_tensor(source["index"], _to_stored(image, source))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            shapes = ", ".join(str(image.shape[1:]) for image in taken)
            raise FileFormatError(
                f"LiteRT must be able to run {name!r} on an image of shape {shapes}, but reports: "
                f"{error}."
            ) from error
        outputs.append(_from_stored(interpreter.get_tensor(result["index"]), result))
    return _classes_last(np.concatenate(outputs))


def _inputs(interpreter: Any) -> dict[str, Any]:
    """The details of each input by its name: that of the signature, where there is one."""
    details = interpreter.get_input_details()
    if len(interpreter.get_signature_list()) != 1:
        return {detail["name"]: detail for detail in details}
    keys = interpreter.get_signature_runner().get_input_details()
    by_index = {detail["index"]: key for key, detail in keys.items()}
    return {by_index.get(detail["index"], detail["name"]): detail for detail in details}


def _resize(interpreter: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Let the inputs have these shapes, where they have not."""
    for detail, shape in zip(interpreter.get_input_details(), shapes, strict=True):
        if tuple(detail["shape"]) != shape:
            interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()


def evaluate_models(
    models: Sequence[RunnableModel],
    images: ImageSet,
    *,
    progress: Callable[[str, Sequence[int]], Iterable[int]] | None = None,
) -> list[EvaluationRow]:
    """Measure models on one set of images, the first being the reference of the others.

    Args:
        models: at least one; those of several inputs have inputs of the same names.
        images: read for the inputs of the first model, with labels for the accuracies.
        progress: called per model with a description and the list of what is to do; wraps the list.

    Returns:
        One row per model, in their order.

    Raises:
        DataError: labels do not fit, or two models do not answer in one shape.
        ModelError: a model answers with NaN or infinity.
    """
    rows: list[EvaluationRow] = []
    reference = None
    named = images.named(models[0].input_shapes)
    for model in models:
        # The only input of a model may have any name.
        taken = [named[name] for name in model.input_shapes] if len(named) > 1 else images.images
        outputs = model.run(
            taken, None if progress is None else partial(progress, f"Running {model.name}")
        )
        broken = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
        if broken.size:
            raise ModelError(
                f"{model.name!r} must answer with finite numbers, but its output is NaN or "
                f"infinite for {images.names[broken[0]]!r} ({broken.size} of {len(images)} images)."
            )
        reference = outputs if reference is None else reference
        if outputs.shape != reference.shape:
            raise DataError(
                f"Models that are compared must answer in one shape: {models[0].name!r} gives "
                f"{reference.shape[1:]} per image, {model.name!r} gives {outputs.shape[1:]}."
            )
        labels = images.labels
        rows.append(
            EvaluationRow(
                name=model.name,
                bytes=model.bytes,
                top1=None if labels is None else top1(outputs, labels),
                top5=None if labels is None else top5(outputs, labels),
                agreement=agreement(reference, outputs),
                sqnr_db=sqnr_db(reference, outputs),
            )
        )
    return rows


def _interpreter(content: bytes, name: str, num_threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    if content[4:8] != TFLITE_IDENTIFIER:
        raise FileFormatError(
            f"{name!r} must be a TFLite file (identifier {TFLITE_IDENTIFIER.decode()} at byte 4), "
            f"but starts with {content[:8]!r}."
        )
    try:
        interpreter = Interpreter(model_content=content, num_threads=num_threads)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (RuntimeError, ValueError) as error:
        raise FileFormatError(
            f"LiteRT must be able to load {name!r}, but reports: {_one_line(error)}"
        ) from error
    if not inputs or not outputs:
        raise FileFormatError(
            f"{name!r} must have an input and an output, but has {len(inputs)} inputs and "
            f"{len(outputs)} outputs."
        )
    return interpreter


def read_model_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a model's file, or raise FileFormatError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileFormatError(f"The model file must be readable: {error}.") from error


def _to_stored(image: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(tensor["dtype"])
    if dtype.kind == "f":
        return image.astype(dtype)
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    if scale == 0.0:
        raise FileFormatError(f"The integer input {tensor['name']!r} must state its scale.")
    integers = np.rint(image / np.float32(scale)) + zero_point
    return np.clip(integers, limits.min, limits.max).astype(dtype)


def _from_stored(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if values.dtype.kind == "f" or scale == 0.0:
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def _classes_last(outputs: np.ndarray) -> np.ndarray:
    """Drop the spatial axes of [N, 1, 1, classes], which some classifiers end in."""
    if outputs.ndim > 2 and set(outputs.shape[1:-1]) == {1}:
        return outputs.reshape(len(outputs), -1)
    return outputs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
