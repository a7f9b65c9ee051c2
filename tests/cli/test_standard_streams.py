"""What becomes of the command where a standard stream is closed or full, or Ctrl-C comes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def _command(run: str, *, closed: tuple[int, ...] = (), **options) -> subprocess.CompletedProcess:
    """Run the console script with other work to do.

    Args:
        run: the body of what the command does, in one line.
        closed: file descriptors that the shell has closed.
        options: of `subprocess.run`.
    """
    code = (
        "import os, sys, threading\n"
        "from tflite_ptq4 import cli\n"
        "def run(arguments):\n"
        f"    {run}\n"
        "cli._run = run\n"
        "sys.argv = ['tflite-ptq4', 'inspect', 'x']\n"
        "cli.entry_point()\n"
    )
    close = "".join(f" {descriptor}>&-" for descriptor in closed)
    command = ["sh", "-c", f'exec "$@"{close}', "sh", sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(command, **{**pipes, **options}, timeout=60, check=False)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "out.bin"
    work = (
        f"file = open({str(path)!r}, 'wb', 0); os.write(1, b'result'); os.write(2, b'note'); "
        "print('message', file=sys.stderr, flush=True); print('result'); file.write(b'content')"
    )
    run = _command(work, closed=closed)
    assert run.returncode == 0
    assert path.read_bytes() == b"content"
    assert run.stdout == (b"" if 1 in closed else b"resultresult\n")
    assert run.stderr == (b"" if 2 in closed else b"notemessage\n")


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_is_a_sentence(stream: str) -> None:
    with FULL.open("wb") as full:
        run = _command(f"print('result', file=sys.{stream}, flush=True)", **{stream: full})
    assert run.returncode == 2
    if stream == "stdout":
        message = run.stderr.decode()
        assert message.startswith("tflite-ptq4: stdout, stderr and temporary files must have space")
        assert os.strerror(errno.ENOSPC) in message
        assert "Traceback" not in message
    else:
        assert run.stdout == b""


def test_after_ctrl_c_no_thread_is_waited_for() -> None:
    """As after the second one, which comes while a thread within TensorFlow is waited for."""
    run = _command(
        "threading.Thread(target=threading.Event().wait).start(); raise KeyboardInterrupt"
    )
    assert (run.returncode, run.stdout) == (130, b"")
    assert run.stderr == b"tflite-ptq4: interrupted\n"
