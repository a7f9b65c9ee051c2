"""What an Android device is, and how hot it runs."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from tflite_ptq4.benchmark.adb import Adb

# Of PowerManager: what `dumpsys thermalservice` numbers mean.
THERMAL_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_EMULATED_HARDWARE = ("goldfish", "ranchu", "cutf_cvm")


@dataclass(frozen=True)
class Device:
    """An Android device.

    Attributes:
        serial: what adb calls it.
        model: maker and model.
        emulator: whether it is no phone, so that its times are not a phone's.
        abis: what it runs, the native one first, such as "arm64-v8a".
        soc: its chip, as far as it says.
        android: version of Android and level of its API, such as "14 (API 34)".
        cores: how many there are, with the highest frequency of each where it says.
        thermal: one of `THERMAL_STATES`, or "unknown".
    """

    serial: str
    model: str
    emulator: bool
    abis: tuple[str, ...]
    soc: str
    android: str
    cores: str
    thermal: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return the device in a line."""
        kind = "Emulator" if self.emulator else "Device"
        return (
            f"{kind} {self.serial}: {self.model}, {self.soc}, {self.abis[0]}, Android "
            f"{self.android}, {self.cores}, thermal state {self.thermal}"
        )


def read_device(adb: Adb) -> Device:
    """Ask a device what it is.

    Raises:
        DeviceError: it is gone.
    """
    listed = adb.shell("getprop").output
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]$", listed, re.MULTILINE))

    def first(*names: str) -> str:
        return next((properties[name] for name in names if properties.get(name)), "unknown")

    soc = (properties.get("ro.soc.manufacturer", ""), properties.get("ro.soc.model", ""))
    abis = first("ro.product.cpu.abilist", "ro.product.cpu.abi").split(",")
    emulator = (
        "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
        or properties.get("ro.hardware") in _EMULATED_HARDWARE
    )
    return Device(
        serial=adb.serial,
        model=f"{first('ro.product.manufacturer')} {first('ro.product.model')}",
        emulator=emulator,
        abis=tuple(abis),
        soc=" ".join(filter(None, soc)) or first("ro.board.platform", "ro.hardware"),
        android=f"{first('ro.build.version.release')} (API {first('ro.build.version.sdk')})",
        cores=_cores(adb),
        thermal=thermal_state(adb),
    )


def thermal_state(adb: Adb) -> str:
    """Return one of `THERMAL_STATES`, or "unknown": devices say it since Android 10."""
    found = re.search(r"Thermal Status: (\d)", adb.shell("dumpsys thermalservice").output)
    return THERMAL_STATES[int(found.group(1))] if found else "unknown"


def _cores(adb: Adb) -> str:
    """Such as "8 cores (4 x 1.80 GHz, 4 x 2.85 GHz)"."""
    listed = adb.shell(
        "ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l; "
        "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"
    ).output
    count, *rest = re.findall(r"^\s*(\d+)\s*$", listed, re.MULTILINE) or ["0"]
    frequencies = sorted(int(kilohertz) for kilohertz in rest)
    groups = ", ".join(
        f"{frequencies.count(one)} x {one / 1e6:.2f} GHz" for one in dict.fromkeys(frequencies)
    )
    return f"{count} cores" + (f" ({groups})" if groups else "")
