"""Reading `.npy` and `.npz` files of plain number arrays, with an answer where that fails."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from tflite_ptq4.errors import DataError

ONLY_ARRAY = "x"  # the name of the array of an `.npy` file, which has none

# What damaged .npy and .npz files make NumPy raise.
_NUMPY_READ_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(
    path: Path, choose: Callable[[Sequence[str]], Sequence[str]]
) -> dict[str, np.ndarray]:
    """Read arrays of an `.npz` file, or the one of an `.npy` file, whatever the file's suffix.

    Args:
        path: the file.
        choose: given the names of the arrays in the file, returns those to read, or raises
            DataError.

    Returns:
        The chosen arrays by name. That of an `.npy` file is mapped, not read.

    Raises:
        DataError: the file cannot be read, or is of another kind.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                array = np.load(path, allow_pickle=False, mmap_mode="r")
                return {name: array for name in choose([ONLY_ARRAY])}
            return _read_archive(file, choose)
    except DataError:
        raise
    except _NUMPY_READ_ERRORS as error:
        raise DataError(
            f"{str(path)!r} must be an .npy or .npz file of plain number arrays, or a folder of "
            f"pictures, but cannot be read ({error}). Save the arrays with numpy.savez."
        ) from error


def _read_archive(
    file: BinaryIO, choose: Callable[[Sequence[str]], Sequence[str]]
) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is neither of the two, or cut short")
    file.seek(0)
    with np.load(file, allow_pickle=False) as content:
        found = {name: content[name] for name in choose(content.files)}
    # NumPy hands out a member that is not in its own format as raw bytes.
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"`{name}` must be an array that NumPy has saved")
    return found
