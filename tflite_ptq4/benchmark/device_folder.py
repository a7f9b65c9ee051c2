"""A folder on a device for one benchmark, gone when that is over, however it ends."""

from __future__ import annotations

import secrets
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tflite_ptq4.benchmark.adb import Adb, ShellResult
from tflite_ptq4.errors import DeviceError

# The only place where every Android lets the shell write programs and run them.
_PARENT = "/data/local/tmp"
_PROCESS = "process"
_SECONDS_TO_CLEAN = 15.0
_SIGNAL = 128  # a shell's exit code for a program that a signal has ended, less the signal


class DeviceFolder:
    """Files and programs of one benchmark on a device. Use it with `with`."""

    def __init__(self, adb: Adb) -> None:
        self._adb = adb
        self.path = f"{_PARENT}/tflite_ptq4_{secrets.token_hex(6)}"

    def __enter__(self) -> DeviceFolder:
        """Make the folder."""
        made = self._adb.shell(f"mkdir {shlex.quote(self.path)}")
        if made.code != 0:
            raise DeviceError(
                f"The device {self._adb.serial} must let adb write to {_PARENT}, but reports: "
                f"{made.output.strip()}"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what still runs in it, and delete it."""
        process, folder = shlex.quote(f"{self.path}/{_PROCESS}"), shlex.quote(self.path)
        # After Ctrl-C the program may still run. A second one must not leave it all behind, so it
        # is ignored, by adb too, which inherits that.
        waiting = _not_interrupted()
        try:
            self._adb.shell(
                f"kill $(cat {process}) 2>/dev/null; rm -rf {folder}", seconds=_SECONDS_TO_CLEAN
            )
        except DeviceError:
            print(
                f"The device {self._adb.serial} could not be cleaned up. Once it is back, run: adb "
                f"-s {self._adb.serial} shell rm -rf {self.path}",
                file=sys.stderr,
            )
        finally:
            _interrupted_again(waiting)

    def push(self, source: Path, name: str, *, program: bool = False) -> str:
        """Copy a file into the folder, and return its path there."""
        target = f"{self.path}/{name}"
        self._adb.push(source, target)
        if program:
            self._adb.shell(f"chmod 755 {shlex.quote(target)}")
        return target

    def pull(self, name: str, target: Path) -> None:
        """Copy a file from the folder."""
        self._adb.pull(f"{self.path}/{name}", target)

    def remove(self, *names: str) -> None:
        """Delete files of the folder, where they are there."""
        paths = " ".join(shlex.quote(f"{self.path}/{name}") for name in names)
        self._adb.shell(f"rm -f {paths}")

    def run(self, command: Sequence[str], *, seconds: float) -> str:
        """Run a program and return what it has printed.

        Args:
            command: the program and its arguments.
            seconds: after which it is given up.

        Raises:
            DeviceError: it fails or is ended by a signal, or the device is gone.
        """
        words = " ".join(map(shlex.quote, command))
        # The number of the process is kept, so that cleaning up ends what still runs.
        kept = shlex.quote(f'echo $$ > {self.path}/{_PROCESS}; exec "$@"')
        done = self._adb.shell(
            f"cd {shlex.quote(self.path)} && sh -c {kept} sh {words}; code=$?; rm -f {_PROCESS}; "
            "exit $code",
            seconds=seconds,
        )
        if done.code != 0:
            raise DeviceError(_failure(self._adb.serial, command, done))
        return done.output


def _failure(serial: str, command: Sequence[str], done: ShellResult) -> str:
    program = command[0].rpartition("/")[2]
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "CANNOT LINK" in line]
    said = (telling or lines or ["nothing"])[-1]
    if done.code - _SIGNAL in set(signal.Signals):
        ended_by = signal.Signals(done.code - _SIGNAL)
        name = ended_by.name
        # The shell has the last word, but only says this.
        lines = [line for line in lines if line != signal.strsignal(ended_by)]
        said = (telling or lines or ["nothing"])[-1]
        advice = (
            "Its build uses instructions that this processor lacks: take another one."
            if name == "SIGILL"
            else "The system may have run out of memory, or its build is faulty: take another one."
        )
        return (
            f"{program} must run through on {serial}, but crashed with {name}; it last said: "
            f"{said}. {advice}"
        )
    return (
        f"{program} must run through on {serial}, but ended with exit code {done.code} and says: "
        f"{said}"
    )


def _not_interrupted() -> object:
    try:
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone is interrupted
        return None


def _interrupted_again(before: object) -> None:
    if before is not None:
        signal.signal(signal.SIGINT, before)  # type: ignore[arg-type]
