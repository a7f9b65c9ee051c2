"""Read the tensors of a PyTorch checkpoint without PyTorch, and without running what is in it.

Such a file (the format of `torch.save` before PyTorch 1.6) is a row of pickles, then the numbers:

    magic number | format version | sizes of C types | state dict | storage keys | storages

A general unpickler calls any function that the file names. The one here is safe, because a pickle
reaches functions and classes only through `find_class`, which refuses every name but six: the
ordered dict, four storage types, for which it returns a dtype's string, and the function that
rebuilds a tensor, for which it returns a constructor of a tuple. With these a pickle can make plain
values and nothing else: none of them imports, opens or calls anything. The tensors are cut out of
the storages afterwards, with every bound checked.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tflite_ptq4.errors import FileFormatError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
FORMAT_VERSION = 1001
STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}


class Storage(NamedTuple):
    """A run of `size` numbers further back in the file."""

    dtype: str
    key: str
    size: int


class StridedView(NamedTuple):
    """A tensor: which numbers of a storage, in units of elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that knows tensors and ordered dicts, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: the pickle may set attributes of what it got.
            return lambda storage, offset, shape, strides, *_: StridedView(
                storage, offset, shape, strides
            )
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which has no place among tensors"
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, size, _view = pid
        if kind != "storage" or dtype not in STORAGE_DTYPES.values():
            raise pickle.UnpicklingError(f"it refers to an unknown kind of object, {kind!r}")
        return Storage(dtype, key, size)


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Return the state dict of a checkpoint: name -> array, with the shapes of PyTorch.

    Args:
        path: a file that `torch.save` wrote before PyTorch 1.6 (or with its zip format off).

    Raises:
        FileFormatError: it is no such file, it is cut short, or it holds anything but tensors.
    """
    try:
        # Read whole: an unpickler may read ahead in a file, and the numbers follow the pickles.
        with io.BytesIO(path.read_bytes()) as file:
            if TensorUnpickler(file).load() != MAGIC_NUMBER:
                raise ValueError("the magic number is missing")
            version = TensorUnpickler(file).load()
            if version != FORMAT_VERSION:
                raise ValueError(f"the format version is {version!r}, not {FORMAT_VERSION}")
            TensorUnpickler(file).load()
            views = TensorUnpickler(file).load()
            keys = TensorUnpickler(file).load()
            if not isinstance(views, OrderedDict):
                raise ValueError(f"it holds a {type(views).__name__}, not a state dict")
            storages = _read_storages(file, views, keys)
        return {str(name): _tensor(view, storages) for name, view in views.items()}
    # What a damaged pickle makes the unpickler raise depends on where the damage is.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise FileFormatError(
            f"A checkpoint must hold a PyTorch state dict and nothing else; {str(path)!r} was not "
            f"read: {error}. Install the package that it came with anew."
        ) from error


def _read_storages(
    file: BinaryIO, views: OrderedDict[str, StridedView], keys: list[str]
) -> dict[str, np.ndarray]:
    declared = {view.storage.key: view.storage for view in views.values()}
    storages = {}
    for key in keys:
        storage = declared[key]
        size = int.from_bytes(file.read(8), "little")
        if size != storage.size:
            raise ValueError(f"storage {key} should have {storage.size} numbers and has {size}")
        data = file.read(size * np.dtype(storage.dtype).itemsize)
        storages[key] = np.frombuffer(data, storage.dtype, count=size)
    return storages


def _tensor(view: StridedView, storages: dict[str, np.ndarray]) -> np.ndarray:
    """Cut the tensor out of its storage: element i is at `offset + sum(i * strides)`."""
    storage = storages[view.storage.key]
    if min(view.offset, *view.shape, *view.strides, 0) < 0 or len(view.shape) != len(view.strides):
        raise ValueError(f"a tensor has shape {view.shape} and strides {view.strides}")
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and view.offset + last >= storage.size:
        raise ValueError(f"a tensor of shape {view.shape} reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(
        storage[view.offset :], view.shape, strides, writeable=False
    ).copy()
