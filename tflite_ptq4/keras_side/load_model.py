"""Reading the file of a Keras model, of Keras 3 or tf_keras, with an answer where that fails."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tflite_ptq4.errors import FileFormatError, ModelError
from tflite_ptq4.input_shapes import Shape
from tflite_ptq4.keras_side.tf_keras_models import files as tf_keras_files

if TYPE_CHECKING:
    import keras
    import tf_keras

Framework = Literal["auto", "keras", "tf_keras"]

_SUFFIX = ".keras"
_HDF5_SUFFIXES = (".h5", ".hdf5")
_UNKNOWN_CLASS = re.compile(r"Could not locate (?:class|function) '([^']*)'")


def check_model_file(path: str | os.PathLike[str], framework: Framework = "auto") -> None:
    """Refuse what cannot be the file of a Keras model, without importing Keras.

    Args:
        path: as for `framework_of`.
        framework: as there.

    Raises:
        FileFormatError: as `framework_of`.
    """
    framework_of(path, framework)


def framework_of(
    path: str | os.PathLike[str], framework: Framework = "auto"
) -> Literal["keras", "tf_keras"]:
    """Return the framework that reads a file, without importing Keras.

    Args:
        path: a `.keras` file, or for tf_keras also an HDF5 file or the folder of a SavedModel.
        framework: the one that is asked for; "auto" for the one that wrote the file.

    Raises:
        FileFormatError: there is no such file, it is of another format, or not one that the
            framework asked for reads.
    """
    path = Path(path)
    if not path.exists():
        raise FileFormatError(
            f"A model must exist: there is no file {str(path)!r}. Name the file of a saved model."
        )
    _refuse_other_formats(path)
    version = _keras_version(path)
    of_keras_2 = path.suffix != _SUFFIX or version.startswith("2.")
    if framework == "auto":
        framework = "tf_keras" if of_keras_2 else "keras"
    if framework == "keras" and path.suffix != _SUFFIX:
        raise FileFormatError(
            f"Keras 3 models must be {_SUFFIX} files. Received: {str(path)!r}. Read it with "
            "tf_keras (--framework tf_keras), if tf_keras wrote it."
        )
    if framework == "tf_keras" and version.startswith("3."):
        raise FileFormatError(
            f"A file for tf_keras must have been saved by tf_keras. Received: {str(path)!r}, saved "
            f"with Keras {version}. "
            + (
                "Read it with Keras 3 (--framework keras)."
                if path.suffix == _SUFFIX
                else f"Load it with Keras 3 and save it with model.save('model{_SUFFIX}')."
            )
        )
    return framework


def _refuse_other_formats(path: Path) -> None:
    if path.is_dir():
        if not (path / tf_keras_files.SAVED_MODEL).is_file():
            raise FileFormatError(
                f"A model must be one {_SUFFIX} file, or of tf_keras an .h5 file or a SavedModel, "
                f"but {str(path)!r} is a folder without {tf_keras_files.SAVED_MODEL}. Save the "
                f"model with model.save('model{_SUFFIX}')."
            )
    elif path.suffix in _HDF5_SUFFIXES:
        with path.open("rb") as file:
            if file.read(8) != tf_keras_files.HDF5_SIGNATURE:
                raise FileFormatError(
                    f"{str(path)!r} is not an HDF5 file: it is of another format, empty or cut "
                    "short. Save the model again."
                )
    elif path.suffix != _SUFFIX:
        raise FileFormatError(
            f"A Keras model must be a {_SUFFIX} file, or of tf_keras an .h5 file or a SavedModel. "
            f"Received: {str(path)!r}. Load it with Keras and save it with "
            f"model.save('model{_SUFFIX}')."
        )
    elif not zipfile.is_zipfile(path):
        raise FileFormatError(
            f"{str(path)!r} is not a {_SUFFIX} file (a zip archive): it is of another format, "
            f"empty or cut short. Save it again with model.save('model{_SUFFIX}')."
        )


def load_model(
    path: str | os.PathLike[str], framework: Framework = "auto"
) -> keras.Model | tf_keras.Model:
    """Load a Keras model for inference; no code that the file carries is run.

    Args:
        path: a `.keras` file, or for tf_keras also an HDF5 file or the folder of a SavedModel.
        framework: what reads it; "auto" for the framework that wrote the file.

    Returns:
        The model, not compiled, of that framework.

    Raises:
        FileFormatError: not such a file, a corrupt one, one that a newer Keras saved and this
            one cannot read, or one with a Lambda or an unknown class.
    """
    path = Path(path)
    try:
        if framework_of(path, framework) == "tf_keras":
            return tf_keras_files.load(path)
        return _load_keras(path)
    except FileFormatError:
        raise
    # A damaged or foreign archive can make any part of Keras fail, each in its own way.
    except Exception as error:
        raise FileFormatError(f"{str(path)!r} {_explanation(error, path)}") from error


def _load_keras(path: Path) -> keras.Model:
    import keras

    # Registers the layers and functions of our own simulated models.
    import tflite_ptq4.keras_side.fake_quantization
    import tflite_ptq4.keras_side.integer_layers
    import tflite_ptq4.keras_side.tf_keras_models.layers  # noqa: F401

    return keras.saving.load_model(path, compile=False, safe_mode=True)


def bytes_on_disk(path: Path) -> int:
    """Return the length of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _explanation(error: Exception, path: Path) -> str:
    text = str(error)
    if isinstance(error, tf_keras_files.RefusedContent):
        return text
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
    saved_with = _keras_version(path)
    package = "tf_keras" if saved_with.startswith("2.") else "keras"
    installed = installed_version(package)
    if _release(saved_with) > _release(installed):
        return (
            f"was saved with Keras {saved_with}, and Keras {installed}, which is installed, cannot "
            "read it. Update Keras, or save the model with the older one."
        )
    reason = _first_sentence(text) or type(error).__name__
    if () < _release(saved_with) < _release(installed):
        return (
            f"was saved with Keras {saved_with}, and Keras {installed}, which is installed, cannot "
            f"make a model of it: {reason}. Build the model in Python with the code that it comes "
            "from, give it the weights by model.load_weights, and call tflite_ptq4.quantize_model "
            "there."
        )
    return f"is not a whole Keras model: {reason}. Save it again with model.save('model{_SUFFIX}')."


def _keras_version(path: Path) -> str:
    """Return the version of Keras that wrote the file, "" where it does not say."""
    try:
        if path.is_dir():
            return ""
        if path.suffix == _SUFFIX:
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        import h5py

        with h5py.File(path, "r") as file:
            return str(file.attrs["keras_version"])
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
