"""Writing a file so that no reader ever sees half of it, and making the folder of several."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tflite_ptq4.errors import OutputError


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, then put it in the place of `path`.

    Args:
        path: where the file is to lie; an older file there is replaced, its folder must exist.
        data: the whole content.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full. Whatever lay at
            `path` before is then unchanged, and nothing half-written stays behind.
    """
    target = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is private to its owner; the result gets what `open` would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(
            f"The output must be writable: {str(target)!r} could not be written "
            f"({error.strerror or error}). Name a path in an existing folder with free space."
        ) from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, with the folders above it; one that is there stays as it is.

    Raises:
        OutputError: it cannot be made, or there is a file in its place.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The output must go into a folder that can be written to: {str(folder)!r} could not "
            f"be made ({error.strerror or error}). Name another folder."
        ) from error
    return folder
