"""Importing TensorFlow without the pages of notes that its native code writes to stderr."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


def import_tensorflow() -> None:
    """Import TensorFlow and Keras on it; what they write to stderr shows only if that fails."""
    # Read once, when TensorFlow is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow 2.21 notes its CPU features whatever the level is.
    with native_stderr_held_back():
        importlib.import_module("tensorflow")
        importlib.import_module("keras")


@contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Keep what is written to file descriptor 2 meanwhile, and show it only after an exception."""
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        terminal = os.dup(_STDERR)
        os.dup2(held_back.fileno(), _STDERR)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
