from __future__ import annotations

from pathlib import Path

import pytest
from device_benchmark_model import write_program

from tflite_ptq4.benchmark.device import Device
from tflite_ptq4.benchmark.tool_binary import check_binary
from tflite_ptq4.errors import DeviceError, FileFormatError

ARM64, ARM, X86_64 = 183, 40, 62


def device(*abis: str) -> Device:
    return Device("S1", "A B", False, abis, "soc", "14 (API 34)", "8 cores", "none")


PHONE = device("arm64-v8a", "armeabi-v7a")


@pytest.mark.parametrize(
    ("machine", "linker", "target", "abi"),
    [
        (ARM64, "", PHONE, "arm64-v8a"),
        (ARM64, "/system/bin/linker64", PHONE, "arm64-v8a"),
        (ARM, "/system/bin/linker", PHONE, "armeabi-v7a"),
        (X86_64, "", device("x86_64", "x86"), "x86_64"),
    ],
)
def test_a_program_for_the_device_is_taken(
    machine: int, linker: str, target: Device, abi: str, tmp_path: Path
) -> None:
    program = write_program(tmp_path / "tool", machine=machine, linker=linker)
    assert check_binary(program, target) == (program, abi)


@pytest.mark.parametrize(
    ("machine", "linker", "target", "message"),
    [
        (X86_64, "", PHONE, r"for arm64-v8a or armeabi-v7a, which S1 runs, but .* for x86_64"),
        (ARM64, "", device("armeabi-v7a"), r"is for arm64-v8a\. .*android_arm_benchmark_model"),
        (ARM64, "/lib/ld-linux-aarch64.so.1", PHONE, r"is for Linux .*/lib/ld-linux-aarch64"),
        (9, "", PHONE, "is for another machine"),
    ],
)
def test_another_program_is_refused(
    machine: int, linker: str, target: Device, message: str, tmp_path: Path
) -> None:
    program = write_program(tmp_path / "tool", machine=machine, linker=linker)
    with pytest.raises(DeviceError, match=message):
        check_binary(program, target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (PHONE, "lite/tools/nightly/latest/android_aarch64_benchmark_model and name it with"),
        (device("armeabi-v7a"), "lite/tools/nightly/latest/android_arm_benchmark_model"),
        (device("x86_64"), r"None is published for x86_64: .*--config=android_x86_64"),
        (device("riscv64"), "None is published for riscv64"),
    ],
)
def test_without_one_it_says_where_to_get_it(target: Device, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        check_binary(None, target)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF short"])
def test_what_is_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(content)
    with pytest.raises(FileFormatError, match="must be a program for Android"):
        check_binary(tmp_path / "tool", PHONE)
    with pytest.raises(FileFormatError, match="must be readable"):
        check_binary(tmp_path / "absent", PHONE)
