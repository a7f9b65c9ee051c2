"""What the commands check about files before any long work starts."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tflite_ptq4.errors import DataError, OutputError
from tflite_ptq4.image_data import ImageSet, load_images


def check_output(output: Path, *, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse an output that could not be written, or that would replace an input.

    Raises:
        OutputError: the folder is missing or not writable, or the path is a folder or an input.
    """
    if output.is_dir():
        raise OutputError(f"The output must be a file, but {str(output)!r} is a folder.")
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise OutputError(f"The output must not replace an input, {str(path)!r}.")
    try:
        # Permissions alone do not tell: root passes them all, and some mounts refuse anyway.
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise OutputError(
            f"The output must be writable: no file can be made in the folder of {str(output)!r} "
            f"({error.strerror or error}). Name a path in an existing, writable folder."
        ) from error


def check_images(path: Path) -> None:
    """Refuse images that do not exist, before a model is loaded for them."""
    if not path.exists():
        raise DataError(f"Images must exist: there is no file or folder {str(path)!r}.")


def images_from(
    path: Path, arguments: argparse.Namespace, input_shape: tuple[int | None, ...]
) -> ImageSet:
    """Read the images of a command, prepared as its arguments say."""
    return load_images(
        path,
        samples=arguments.samples,
        resize=arguments.resize,
        crop=arguments.crop,
        mean=arguments.mean,
        std=arguments.std,
        input_shape=input_shape,
    )
