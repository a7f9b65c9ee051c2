"""An `adb` server of one's own: other devices and other servers of this machine stay out of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from device_stand_in import StandIn

NO_ADB = "the adb client is not installed (tests/support/install_adb.sh)"


@contextmanager
def adb_server(home: Path) -> Iterator[None]:
    """Point this process's `adb` commands at a new server, and end that afterwards.

    Args:
        home: where it keeps its keys and its log.
    """
    if shutil.which("adb") is None:
        pytest.skip(NO_ADB)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        "ANDROID_ADB_SERVER_PORT": str(port),
        "ANDROID_ADB_LOG_PATH": str(home / "adb.log"),
        "HOME": str(home),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        for name in ("ANDROID_SERIAL", "ADB_VENDOR_KEYS", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
            patch.delenv(name, raising=False)
        _adb("start-server")
        try:
            yield
        finally:
            _adb("kill-server")


@contextmanager
def attached(device: StandIn) -> Iterator[StandIn]:
    """Start a device, and let the server connect to it."""
    with device:
        _adb("connect", device.serial)
        try:
            yield device
        finally:
            _adb("disconnect", device.serial)


def _adb(*arguments: str) -> None:
    # The server inherits what its client has open: pipes would never come to an end.
    subprocess.run(
        ["adb", *arguments], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
