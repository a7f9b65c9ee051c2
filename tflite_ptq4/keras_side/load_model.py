"""Reading a `.keras` file, with an answer for each way in which that can fail."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_ptq4.errors import FileFormatError, ModelError
from tflite_ptq4.input_shapes import Shape

if TYPE_CHECKING:
    import keras

_SUFFIX = ".keras"
_UNKNOWN_CLASS = re.compile(r"Could not locate (?:class|function) '([^']*)'")


def check_model_file(path: str | os.PathLike[str]) -> None:
    """Refuse what cannot be a `.keras` file, without importing Keras.

    Raises:
        FileFormatError: there is no such file, or it is not the zip archive that Keras 3 writes.
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(
            f"A model must be one {_SUFFIX} file, but {str(path)!r} is a folder. Load it with "
            f"Keras and save it with model.save('model{_SUFFIX}')."
        )
    if not path.is_file():
        raise FileFormatError(f"A model must exist: there is no file {str(path)!r}.")
    if path.suffix != _SUFFIX:
        raise FileFormatError(
            f"A Keras model must be a {_SUFFIX} file. Received: {str(path)!r}. Load it with Keras "
            f"and save it with model.save('model{_SUFFIX}')."
        )
    if not zipfile.is_zipfile(path):
        raise FileFormatError(
            f"{str(path)!r} is not a Keras 3 file (a zip archive): it is of another format, empty "
            f"or cut short. Save it again with model.save('model{_SUFFIX}')."
        )


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a Keras 3 model for inference; no code that the file carries is run.

    Args:
        path: a `.keras` file.

    Returns:
        The model, not compiled.

    Raises:
        FileFormatError: not a `.keras` file, a corrupt one, one that a newer Keras saved and this
            one cannot read, or one with a Lambda or an unknown class.
    """
    check_model_file(path)
    import keras

    # Registers the layers of our own simulated models.
    import tflite_ptq4.keras_side.fake_quantization  # noqa: F401

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    # A damaged or foreign archive can make any part of Keras fail, each in its own way.
    except Exception as error:
        raise FileFormatError(f"{str(path)!r} {_explanation(error, path)}") from error


def _explanation(error: Exception, path: str | os.PathLike[str]) -> str:
    text = str(error)
    if "safe_mode" in text or "unsafe" in text:
        return (
            "holds a Lambda layer, that is Python code, which is not run from a file. Replace it "
            "by a layer class or by keras.ops and save the model again."
        )
    unknown = _UNKNOWN_CLASS.search(text)
    if unknown:
        return (
            f"holds {unknown[1]!r}, a class that Keras does not know. Load it in Python, after the "
            "module that defines the class, and call tflite_ptq4.quantize_model there."
        )
    saved_with, installed = _keras_version(path), installed_version("keras")
    if _release(saved_with) > _release(installed):
        return (
            f"was saved with Keras {saved_with}, and Keras {installed}, which is installed, cannot "
            "read it. Update Keras, or save the model with the older one."
        )
    return (
        f"is not a whole Keras model: {_first_sentence(text) or type(error).__name__}. Save it "
        f"again with model.save('model{_SUFFIX}')."
    )


def _keras_version(path: str | os.PathLike[str]) -> str:
    """Return the version of Keras that wrote the file, "" where it does not say."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return ""


def _release(version: str) -> tuple[int, ...]:
    """Return (3, 15, 1) of "3.15.1", () where there is no number."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _first_sentence(text: str) -> str:
    return text.strip().split("\n")[0].split(". ")[0][:300].rstrip(".")


def input_shapes(model: keras.Model) -> dict[str, Shape]:
    """Return the shape of each input without the batch axis, None for a side of any length.

    Raises:
        ModelError: the model has no inputs, because it is not built, or a subclass of its own.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ModelError(
            f"The model must have inputs. {model.name!r} has 0: build it as a functional or "
            "Sequential model on a keras.Input."
        )
    return {tensor.name: tuple(tensor.shape[1:]) for tensor in inputs}


def image_input_shape(model: keras.Model) -> Shape:
    """Return (H, W, C) of the model's one input, None for a side that may have any length.

    Raises:
        ModelError: the model does not have exactly one input.
    """
    shapes = input_shapes(model)
    if len(shapes) != 1:
        raise ModelError(
            f"The model must have one input, of images. {model.name!r} has {len(shapes)} "
            f"({', '.join(shapes)}). Choose a model on one keras.Input."
        )
    (shape,) = shapes.values()
    return shape
