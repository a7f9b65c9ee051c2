"""What `adb` says of devices that cannot be had here, as its messages have been recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tflite_ptq4.benchmark.adb import (
    Adb,
    AttachedDevice,
    attached_devices,
    choose_device,
    find_adb,
)
from tflite_ptq4.errors import DeviceError

PHONE = "R58M  device usb:1-4 product:beyond1 model:SM_G973F device:beyond1 transport_id:3"
TABLET = "192.168.1.5:5555     device product:p model:Tab_A device:d transport_id:4"
EMULATOR = "emulator-5554          offline transport_id:1"
LOCKED = "R58M                   unauthorized usb:1-4 transport_id:3"
NO_RULES = (
    "R58M  no permissions (user in plugdev group; are your udev rules wrong?); see "
    "[http://developer.android.com/tools/device.html] usb:1-4 transport_id:3"
)
BOOTLOADER = "R58M                   bootloader usb:1-4 transport_id:3"
UNHEARD_OF = "R58M                   rescue usb:1-4 transport_id:3"


def adb_saying(folder: Path, text: str, *, to_stderr: bool = False, code: int = 0) -> str:
    """A client that says one and the same thing whatever it is asked."""
    (folder / "said").write_text(text)
    program = folder / "adb"
    stream = " >&2" * to_stderr
    program.write_text(f"#!/bin/sh\ncat '{folder}/said'{stream}\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


def listing(*lines: str) -> str:
    return "\n".join(["List of devices attached", *lines, "", ""])


def test_devices_are_read_from_the_list(tmp_path: Path) -> None:
    adb = adb_saying(tmp_path, listing(PHONE, EMULATOR, NO_RULES))
    phone, emulator, closed = attached_devices(adb)
    assert phone == AttachedDevice("R58M", "device", "SM_G973F")
    assert emulator == AttachedDevice("emulator-5554", "offline", "")
    assert closed.state.startswith("no permissions (user in plugdev group")


@pytest.mark.parametrize(
    ("lines", "serial", "chosen"),
    [
        ([PHONE], None, "R58M"),
        ([EMULATOR, PHONE], None, "R58M"),
        ([TABLET, PHONE], "R58M", "R58M"),
        ([TABLET, PHONE], "192.168.1.5:5555", "192.168.1.5:5555"),
    ],
)
def test_the_device_that_is_meant(
    lines: list[str], serial: str | None, chosen: str, tmp_path: Path
) -> None:
    assert choose_device(adb_saying(tmp_path, listing(*lines)), serial).serial == chosen


@pytest.mark.parametrize(
    ("lines", "serial", "message"),
    [
        ([], None, "lists none. Plug a phone in"),
        ([], "R58M", "lists no device"),
        ([PHONE], "R59", r"'R59' must be attached, but `adb devices` lists R58M \(SM_G973F\)"),
        ([PHONE, TABLET], None, r"R58M \(SM_G973F\), 192\.168\.1\.5:5555 \(Tab_A\)\. Name one"),
        ([LOCKED, EMULATOR], None, r"R58M \(unauthorized\), emulator-5554 \(offline\)"),
        ([PHONE, EMULATOR], "emulator-5554", "emulator-5554 does not answer: plug it in again"),
        ([LOCKED], None, "allow USB debugging in the question on its screen"),
        ([NO_RULES], None, "install the udev rules"),
        ([BOOTLOADER], None, "is in its bootloader"),
        ([UNHEARD_OF], None, "must be ready, but is 'rescue'"),
    ],
)
def test_a_device_that_cannot_be_used_is_told(
    lines: list[str], serial: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=message):
        choose_device(adb_saying(tmp_path, listing(*lines)), serial)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("error: device offline", "does not answer"),
        ("error: device still authorizing", "allow USB debugging"),
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "allow USB"),
        ("error: device 'R58M' not found", "the connection broke"),
        ("error: closed", "the connection broke"),
        ("", "the connection broke"),
        (
            "adb: error: failed to copy 'a' to 'b': remote write failed: No space left on device",
            "must take file, but its storage is full",
        ),
        (
            "adb: error: failed to copy 'a' to 'b': remote secure_mkdirs failed: Permission denied",
            "but adb reports: adb: error: failed to copy .*Permission denied",
        ),
    ],
)
def test_what_adb_reports_is_a_sentence(said: str, message: str, tmp_path: Path) -> None:
    adb = Adb(adb_saying(tmp_path, said, to_stderr=True, code=1), "R58M")
    with pytest.raises(DeviceError, match=f"The device R58M .*{message}"):
        adb.push(tmp_path / "file", "/data/local/tmp/file")


def test_a_device_that_never_answers_is_given_up(tmp_path: Path) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(DeviceError, match="has not for 0 s"):
        Adb(str(program), "R58M").shell("true", seconds=0.2)


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    said = "* daemon not running; starting now at tcp:5037\nadb: error: cannot bind to 127.0.0.1"
    with pytest.raises(DeviceError, match="but reports: adb: error: cannot bind"):
        attached_devices(adb_saying(tmp_path, said, to_stderr=True, code=1))


def test_the_client_of_the_sdk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "platform-tools").mkdir()
    program = adb_saying(tmp_path / "platform-tools", "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert find_adb() == program
