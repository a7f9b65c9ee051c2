"""Using TensorFlow without the pages of notes that its native code writes to stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tflite_ptq4.errors import Ptq4Error

_STDERR = 2


@contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Keep what is written to file descriptor 2 meanwhile, and show it only after a failure.

    An error of ours says all that there is to say, and shows nothing.
    """
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        terminal = os.dup(_STDERR)
        os.dup2(held_back.fileno(), _STDERR)
        try:
            yield
        except Ptq4Error:
            raise
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
