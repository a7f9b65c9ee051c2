"""Using TensorFlow without the pages of notes that its native code writes to stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TextIO

from tflite_ptq4.errors import Ptq4Error

_STDERR = 2


@contextmanager
def native_stderr_held_back(*, messages_pass: bool = False) -> Iterator[None]:
    """Keep what is written to file descriptor 2 meanwhile, and show it only after a failure.

    An error of ours says all that there is to say, and Ctrl-C is none: they show nothing.

    Args:
        messages_pass: whether `sys.stderr` goes on to the terminal.
    """
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        terminal = os.dup(_STDERR)
        os.dup2(held_back.fileno(), _STDERR)
        try:
            with _python_writing_to(terminal) if messages_pass else nullcontext():
                yield
        except (Ptq4Error, KeyboardInterrupt):
            raise
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)


@contextmanager
def _python_writing_to(terminal: int) -> Iterator[None]:
    """Let `sys.stderr` write to a duplicate of the descriptor that it writes to."""
    before = sys.stderr
    if not _is_stderr(before):
        yield
        return
    encoding, errors = before.encoding, before.errors
    with open(terminal, "w", 1, encoding, errors, closefd=False) as sys.stderr:
        try:
            yield
        finally:
            sys.stderr = before


def _is_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == _STDERR
    except (OSError, ValueError):
        return False
