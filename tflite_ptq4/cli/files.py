"""What the commands check about files before any long work starts."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tflite_ptq4.errors import DataError, OutputError
from tflite_ptq4.image_data import ImageSet, load_images, load_inputs, require_images
from tflite_ptq4.input_shapes import Shape, size_text

# What the arguments are where they are not given.
_UNPREPARED = {"resize": None, "crop": None, "mean": 0.0, "std": 1.0}


def check_output(output: Path, *, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse an output that could not be written, or that would replace an input.

    Args:
        output: the file to be written.
        inputs: files that the command reads, None for one that is not given.

    Raises:
        OutputError: the folder is missing or not writable, or the path is a folder or an input.
    """
    if output.is_dir():
        raise OutputError(
            f"The output must be a file, but {str(output)!r} is a folder. Name a file in it."
        )
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise OutputError(
                f"The output must not replace an input, {str(path)!r}. Name another file."
            )
    _check_writable(output.parent, output)


def check_folder(folder: Path) -> None:
    """Refuse a folder for several outputs that could not be made, or not be written to.

    Raises:
        OutputError: there is a file in its place, or it would not be writable.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"The output must be a folder, but {str(folder)!r} is a file. Name another one."
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    _check_writable(existing, folder)


def _check_writable(folder: Path, output: Path) -> None:
    try:
        # Permissions alone do not tell: root passes them all, and some mounts refuse anyway.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"The output must be writable: no file can be made in the folder of {str(output)!r} "
            f"({error.strerror or error}). Name a path in an existing, writable folder."
        ) from error


def check_images(path: Path) -> None:
    """Refuse images that do not exist, before a model is loaded for them.

    Raises:
        DataError: there is no such file or folder.
    """
    require_images(path)


def images_from(
    path: Path,
    arguments: argparse.Namespace,
    input_shapes: Mapping[str, Shape],
    samples: int | None,
) -> ImageSet:
    """Read the images of a command, prepared as its arguments say.

    Args:
        path: the file or folder.
        arguments: of the command.
        input_shapes: for each input of the model its shape without the batch axis.
        samples: how many are read, None for all.

    Raises:
        DataError: they cannot be read, or do not fit the model.
    """
    preparation = {name: getattr(arguments, name) for name in _UNPREPARED}
    first, *others = input_shapes.values()
    if not others and len(first) == 3:
        return load_images(path, samples=samples, input_shape=first, **preparation)
    asked = [f"--{name}" for name, value in preparation.items() if value != _UNPREPARED[name]]
    if asked:
        inputs = ", ".join(f"{name!r} ({size_text(shape)})" for name, shape in input_shapes.items())
        raise DataError(
            "--resize, --crop, --mean and --std prepare images [height, width, channels], of a "
            f"model of one input. Received: {', '.join(asked)} for {inputs}. Save each array as "
            "the model expects it."
        )
    return load_inputs(path, input_shapes, samples=samples)
