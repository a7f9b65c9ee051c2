"""The `adb` client: commands for an Android device, and a sentence for each way to fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tflite_ptq4.errors import DeviceError

READY = "device"
_EXIT_MARK = "tflite_ptq4_exit="
_SDK_VARIABLES = ("ANDROID_HOME", "ANDROID_SDK_ROOT")
_SECONDS = 60.0

# What adb's messages hold, and what that means to whoever reads them.
_WHAT_TO_DO = {
    "unauthorized": "does not trust this computer yet: unlock it, and allow USB debugging in the "
    "question on its screen",
    "authorizing": "does not trust this computer yet: unlock it, and allow USB debugging in the "
    "question on its screen",
    "no permissions": "may not be opened by this user: on Linux install the udev rules for Android "
    "(Debian's package android-sdk-platform-tools-common), then plug it in again",
    "offline": "does not answer: plug it in again, or restart it; `adb devices` must list it as "
    "`device`",
    "bootloader": "is in its bootloader: start Android on it",
    "recovery": "is in recovery: start Android on it",
    "sideload": "is in recovery: start Android on it",
}


@dataclass(frozen=True)
class AttachedDevice:
    """A line of `adb devices`.

    Attributes:
        serial: what names the device.
        state: "device" where it can be used, otherwise why not.
        model: as the device calls itself, "" where it has not said.
    """

    serial: str
    state: str
    model: str


@dataclass(frozen=True)
class ShellResult:
    """What a command on a device has printed, and its exit code."""

    output: str
    code: int


def find_adb() -> str:
    """Return the path of the `adb` client.

    Raises:
        DeviceError: it is neither on the PATH nor in the Android SDK.
    """
    folders = [
        Path(os.environ[name]) / "platform-tools" for name in _SDK_VARIABLES if os.environ.get(name)
    ]
    found = shutil.which("adb") or shutil.which("adb", path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise DeviceError(
            "The Android client `adb` must be installed, but is neither on the PATH nor in "
            "$ANDROID_HOME/platform-tools. Install Android's platform-tools "
            "(https://developer.android.com/tools/releases/platform-tools), or on Debian and "
            "Ubuntu the package adb."
        )
    return found


def attached_devices(adb: str) -> list[AttachedDevice]:
    """Return the devices that `adb` knows, usable or not.

    Raises:
        DeviceError: its server cannot be started.
    """
    done = _run([adb, "devices", "-l"], _SECONDS)
    if done.returncode != 0:
        raise DeviceError(
            f"`adb devices` must list the devices, but reports: {_last_line(done)}. End its server "
            "with `adb kill-server`, and try again."
        )
    return [_listed(line) for line in done.stdout.splitlines()[1:] if line.strip()]


def choose_device(adb: str, serial: str | None) -> AttachedDevice:
    """Return the device that is meant: the one of that serial, or the only one that is ready.

    Args:
        adb: path of the client.
        serial: what names the device, None for the only one.

    Raises:
        DeviceError: there is none, more than one, or it cannot be used.
    """
    found = attached_devices(adb)
    ready = [device for device in found if device.state == READY]
    names = ", ".join(f"{device.serial} ({device.model or device.state})" for device in found)
    if serial is not None:
        found = [device for device in found if device.serial == serial]
        if not found:
            raise DeviceError(
                f"The device {serial!r} must be attached, but `adb devices` lists "
                f"{names or 'no device'}. Attach it, or name another one with --serial."
            )
    elif not found:
        raise DeviceError(
            "An Android device must be attached, but `adb devices` lists none. Plug a phone in and "
            "switch on USB debugging in its developer options, or start an emulator."
        )
    elif len(ready) > 1 or (len(found) > 1 and not ready):
        raise DeviceError(
            f"One device must be meant, but `adb devices` lists {names}. Name one with --serial."
        )
    else:
        found = ready or found
    (chosen,) = found
    if chosen.state != READY:
        raise _unusable(chosen.serial, chosen.state)
    return chosen


class Adb:
    """Commands for one device."""

    def __init__(self, program: str, serial: str) -> None:
        self._program, self.serial = program, serial

    def shell(self, command: str, *, seconds: float = _SECONDS) -> ShellResult:
        """Run a command in the device's shell.

        Args:
            command: for `sh -c`; quote what is not of this program's making with `shlex.quote`.
            seconds: after which the device is given up.

        Returns:
            What was printed, to stdout and to stderr, and the exit code.

        Raises:
            DeviceError: the device is gone, or the command does not end.
        """
        # Old devices hand on no exit codes, and adb's own is 0 where the connection broke.
        done = self._command(["shell", f"({command}) 2>&1; echo {_EXIT_MARK}$?"], seconds)
        output = done.stdout.replace("\r\n", "\n")
        text, mark, code = output.rpartition(_EXIT_MARK)
        if not mark or not code.strip().isdigit():
            raise self._failure("run a command", done)
        return ShellResult(text, int(code))

    def push(self, source: Path, target: str, *, seconds: float = 600.0) -> None:
        """Copy a file to the device.

        Raises:
            DeviceError: the device is gone or full, or may not be written to.
        """
        done = self._command(["push", str(source), target], seconds)
        if done.returncode != 0:
            raise self._failure(f"take {source.name}", done)

    def pull(self, source: str, target: Path, *, seconds: float = 600.0) -> None:
        """Copy a file from the device.

        Raises:
            DeviceError: the device is gone, or there is no such file.
        """
        done = self._command(["pull", source, str(target)], seconds)
        if done.returncode != 0:
            raise self._failure(f"hand over {source}", done)

    def _command(
        self, arguments: Sequence[str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        try:
            return _run([self._program, "-s", self.serial, *arguments], seconds)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"The device {self.serial} must answer, but has not for {seconds:.0f} s. "
                "See that it is awake and attached, and try again."
            ) from error

    def _failure(self, task: str, done: subprocess.CompletedProcess[str]) -> DeviceError:
        said = f"{done.stdout}\n{done.stderr}"
        if "No space left on device" in said:
            return DeviceError(
                f"The device {self.serial} must {task}, but its storage is full. Free space on "
                "it; /data/local/tmp may hold files of earlier work."
            )
        for state in _WHAT_TO_DO:
            if re.search(rf"\bdevice (still )?{state}", said):
                return _unusable(self.serial, state)
        lost = not said.strip() or "not found" in said or "closed" in said
        if lost:
            return DeviceError(
                f"The device {self.serial} must stay attached, but the connection broke. See to "
                "its cable, keep it awake, and try again."
            )
        return DeviceError(
            f"The device {self.serial} must {task}, but adb reports: {_last_line(done)}"
        )


def _unusable(serial: str, state: str) -> DeviceError:
    text = next((text for key, text in _WHAT_TO_DO.items() if state.startswith(key)), None)
    return DeviceError(f"The device {serial} {text or f'must be ready, but is {state!r}'}.")


def _listed(line: str) -> AttachedDevice:
    """`SERIAL state [usb:…] [product:… model:…] transport_id:…`; a state may be a phrase."""
    serial, _, rest = line.partition(" ")
    serial, _, more = serial.partition("\t")
    words = f"{more} {rest}".split()
    state = [word for word in words if not re.match(r"[a-z_]+:\S", word)]
    model = [word.removeprefix("model:") for word in words if word.startswith("model:")]
    return AttachedDevice(serial, " ".join(state), model[0] if model else "")


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=seconds,
        check=False,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = f"{done.stdout}\n{done.stderr}".split("\n")
    said = [line for line in lines if "error" in line.lower()] or [
        line for line in lines if line.strip()
    ]
    return said[0].strip() if said else f"exit code {done.returncode}"
