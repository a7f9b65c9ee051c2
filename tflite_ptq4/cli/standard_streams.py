"""The standard streams as the shell hands them over: perhaps closed, perhaps on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Open the null device where a stream is closed, as by `2>&-`.

    The next file that is opened would take the place of the stream, and get the messages of native
    code among its bytes.
    """
    for descriptor, name in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == descriptor:
                os.set_inheritable(descriptor, True)
            else:
                os.dup2(opened, descriptor)
                os.close(opened)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def drop_output() -> None:
    """Send what is left for stdout to the null device: Python must not fail on its last flush."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def flush_what_can_be() -> None:
    """Write out stdout and stderr, as far as that goes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
