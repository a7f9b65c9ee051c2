"""Models that can be run, Keras or TFLite: the first output on images, in real numbers.

Both kinds are one value, `RunnableModel`. A TFLite model runs in LiteRT; images and answers are
real numbers there too, whatever integers the file takes and gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.input_arrays import Images, filled_batch
from tflite_ptq4.input_shapes import Shape
from tflite_ptq4.keras_side.load_model import input_shapes
from tflite_ptq4.litert import (
    interpreter_input_shapes,
    invoke,
    open_interpreter,
    real_values,
)

if TYPE_CHECKING:
    import keras

# Wraps the list of what is still to do, and shows how far it is.
Progress = Callable[[Sequence[int]], Iterable[int]]


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
    """Return a Keras model in memory as a runnable model, `size` being its file's bytes.

    Args:
        model: a built model of Keras 3 or tf_keras.
        name: what tables call it.
        size: bytes of its file.
        batch_size: images per call.
    """
    return RunnableModel(
        name=name,
        bytes=size,
        input_shapes=input_shapes(model),
        outputs=len(model.outputs),
        run=lambda images, progress: predict_keras(model, images, batch_size, progress),
    )


def tflite_model(content: bytes, *, name: str, num_threads: int = 2) -> RunnableModel:
    """Return the content of a `.tflite` file as a runnable model.

    Args:
        content: of the file.
        name: what tables and messages call it.
        num_threads: threads of LiteRT.

    Raises:
        FileFormatError: it is not a TFLite file, or LiteRT cannot load it.
    """
    interpreter = open_interpreter(content, name, num_threads)
    return RunnableModel(
        name=name,
        bytes=len(content),
        input_shapes=interpreter_input_shapes(interpreter),
        outputs=len(interpreter.get_output_details()),
        run=partial(_run, interpreter, name),
    )


def read_model_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a model's file.

    Raises:
        FileFormatError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"The model file must be readable: {error}. Name a file that this user can read."
        ) from error


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
        filled = [filled_batch(part, fixed or count) for part in batch]
        several = len(filled) > 1
        output = model.predict_on_batch(
            keras.tree.pack_sequence_as(model.input, filled) if several else filled[0]
        )
        # In the order of `model.outputs`, which sorts the keys of a dict.
        first = keras.tree.flatten(output)[0]
        outputs.append(np.asarray(first, np.float32)[:count])
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
    return _run(open_interpreter(content, name, num_threads), name, [images], progress)


def _run(
    interpreter: Any, name: str, images: Sequence[Images], progress: Progress | None
) -> np.ndarray:
    result = interpreter.get_output_details()[0]
    outputs = []
    todo = range(len(images[0]))
    for index in progress(todo) if progress else todo:
        invoke(interpreter, name, [array[index : index + 1] for array in images])
        outputs.append(real_values(interpreter.get_tensor(result["index"]), result))
    return _classes_last(np.concatenate(outputs))


def _classes_last(outputs: np.ndarray) -> np.ndarray:
    """Drop the spatial axes of [N, 1, 1, classes], which some classifiers end in."""
    if outputs.ndim > 2 and set(outputs.shape[1:-1]) == {1}:
        return outputs.reshape(len(outputs), -1)
    return outputs
