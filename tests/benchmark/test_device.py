from __future__ import annotations

from dataclasses import dataclass

import pytest

from tflite_ptq4.benchmark.adb import ShellResult
from tflite_ptq4.benchmark.device import read_device

PIXEL = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
    "ro.build.version.release": "15",
    "ro.build.version.sdk": "35",
    "ro.hardware": "shiba",
}
OLD = {
    "ro.product.manufacturer": "LGE",
    "ro.product.model": "Nexus 5",
    "ro.product.cpu.abi": "armeabi-v7a",
    "ro.board.platform": "msm8974",
    "ro.build.version.release": "6.0.1",
    "ro.build.version.sdk": "23",
    "persist.text": "a]: [b",
}
CORES = "9\n" + "1704000\n" * 4 + "2367000\n" * 4 + "2914000\n"


@dataclass
class Shell:
    """Answers as a device does."""

    properties: dict[str, str]
    thermal: str = "IsStatusOverride: false\nThermal Status: 1\nCached temperatures:\n"
    cores: str = CORES
    serial: str = "S1"

    def shell(self, command: str) -> ShellResult:
        if command == "getprop":
            lines = [f"[{key}]: [{value}]" for key, value in self.properties.items()]
            return ShellResult("\n".join(lines), 0)
        return ShellResult(self.thermal if "dumpsys" in command else self.cores, 0)


def test_a_phone() -> None:
    device = read_device(Shell(PIXEL))
    assert device.describe() == (
        "Device S1: Google Pixel 8, Google Tensor G3, arm64-v8a, Android 15 (API 35), 9 cores "
        "(4 x 1.70 GHz, 4 x 2.37 GHz, 1 x 2.91 GHz), thermal state light"
    )
    assert not device.emulator


def test_a_phone_of_before_android_10() -> None:
    refused = "Can't find service: thermalservice\n"
    device = read_device(Shell(OLD, thermal=refused, cores="4\ncat: Permission denied\n"))
    assert device.describe() == (
        "Device S1: LGE Nexus 5, msm8974, armeabi-v7a, Android 6.0.1 (API 23), 4 cores, thermal "
        "state unknown"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"ro.kernel.qemu": "1"},
        {"ro.boot.qemu": "1"},
        {"ro.hardware": "ranchu"},
        {"ro.hardware": "goldfish"},
        {"ro.hardware": "cutf_cvm"},
    ],
)
def test_an_emulator_is_told_from_a_phone(changes: dict[str, str]) -> None:
    device = read_device(Shell({**PIXEL, **changes}))
    assert device.emulator
    assert device.describe().startswith("Emulator S1: ")
