"""Starting TensorFlow for one command, so that it takes the time and the memory that it needs."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE_ARRAY = 1 << 24  # bytes; asking the system for each smaller one takes a tenth of the time


def import_tensorflow(*, in_two_threads: bool = False) -> None:
    """Import TensorFlow and Keras on it; what they write to stderr shows only if that fails.

    Args:
        in_two_threads: whether two threads are going to call TensorFlow, so that each of its
            operators should take no more than half of the cores.
    """
    if "tensorflow" in sys.modules:
        importlib.import_module("keras")
        return
    # Read once, when TensorFlow is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    _give_large_arrays_back()
    # TensorFlow 2.21 notes its CPU features whatever the level is.
    with native_stderr_held_back(), _no_garbage_collected():
        tensorflow = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        if in_two_threads:
            half = max(1, (os.cpu_count() or 1) // 2)
            tensorflow.config.threading.set_intra_op_parallelism_threads(half)
        # Looking for devices reports each kind that is missing, at the latest with the first model.
        tensorflow.config.list_logical_devices()


def give_memory_back() -> None:
    """Return to the system what a long step has left: graphs that have run, holes in the heap."""
    gc.collect()
    give_heap_back()


def give_heap_back() -> None:
    """Return to the system what lies unused between the arrays that are in use."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _give_large_arrays_back() -> None:
    """Let glibc return the memory of large arrays to the system when they are freed.

    Of its own accord it stops doing so when it has freed one, and keeps holes between later ones.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_ARRAY)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_ARRAY)


def _of_glibc(name: str) -> Callable | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Let Python neither look for garbage meanwhile, nor ever among what is made meanwhile.

    TensorFlow's modules are a quarter of a million objects that stay. Looking through them again
    and again takes a tenth of the time of a short command.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
