"""TensorFlow's `benchmark_model` for Android: where it is to be had, and whether a file is it."""

from __future__ import annotations

import struct
from pathlib import Path

from tflite_ptq4.benchmark.device import Device
from tflite_ptq4.errors import DeviceError, FileFormatError

PAGE = "https://ai.google.dev/edge/litert/models/measurement"
_DOWNLOADS = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/"
    "nightly/latest/"
)
# ABI -> name of the prebuilt file, and of the configuration that builds one.
_PREBUILT = {
    "arm64-v8a": "android_aarch64_benchmark_model",
    "armeabi-v7a": "android_arm_benchmark_model",
}
_BUILD = {
    "arm64-v8a": "android_arm64",
    "armeabi-v7a": "android_arm",
    "x86_64": "android_x86_64",
    "x86": "android_x86",
}
# `e_machine` of an ELF header -> ABI.
_MACHINES = {3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a", 243: "riscv64"}
_INTERPRETER = 3  # the type of the program header that names the dynamic linker


def where_to_get(device: Device) -> str:
    """Return a sentence that says where `benchmark_model` for a device is to be had."""
    for abi in device.abis:
        if abi in _PREBUILT:
            return (
                f"For {abi} it is the file {_PREBUILT[abi]} of {PAGE} (section on the native "
                f"binary): download {_DOWNLOADS}{_PREBUILT[abi]} and name it with "
                "--benchmark-binary."
            )
    config = _BUILD.get(device.abis[0], device.abis[0])
    return (
        f"None is published for {device.abis[0]}: build it from TensorFlow's source with `bazel "
        f"build -c opt --config={config} //tensorflow/lite/tools/benchmark:benchmark_model`, or "
        "use an arm64 device or emulator image."
    )


def check_binary(path: Path | None, device: Device) -> tuple[Path, str]:
    """Return the path of a `benchmark_model` that a device can run, and its ABI.

    Args:
        path: of the program, None where the user named none.
        device: that is to run it.

    Raises:
        DeviceError: none was named, or it is for another ABI or for Linux.
        FileFormatError: the file cannot be read, or is no program.
    """
    if path is None:
        raise DeviceError(
            f"Measuring on a device needs TensorFlow's program benchmark_model. "
            f"{where_to_get(device)}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"The benchmark binary must be readable: {error}.") from error
    if content[:4] != b"\x7fELF" or len(content) < 64:
        raise FileFormatError(
            f"The benchmark binary must be a program for Android, but {str(path)!r} starts with "
            f"{content[:8]!r}. {where_to_get(device)}"
        )
    abi = _MACHINES.get(struct.unpack_from("<H", content, 18)[0], "another machine")
    if abi not in device.abis:
        raise DeviceError(
            f"The benchmark binary must be for {' or '.join(device.abis)}, which {device.serial} "
            f"runs, but {str(path)!r} is for {abi}. {where_to_get(device)}"
        )
    linker = _dynamic_linker(content)
    if linker and not linker.startswith("/system/"):
        raise DeviceError(
            f"The benchmark binary must be for Android, but {str(path)!r} is for Linux (it asks "
            f"for {linker}). {where_to_get(device)}"
        )
    return path, abi


def _dynamic_linker(content: bytes) -> str:
    """The program that loads this one, "" for a static one."""
    is_64_bit = content[4] == 2
    offset = struct.unpack_from("<Q" if is_64_bit else "<I", content, 32 if is_64_bit else 28)[0]
    size, count = struct.unpack_from("<HH", content, 54 if is_64_bit else 42)
    for index in range(count):
        start = offset + index * size
        if start + size > len(content):
            break
        if struct.unpack_from("<I", content, start)[0] == _INTERPRETER:
            place, form = (start + 8, "<Q") if is_64_bit else (start + 4, "<I")
            name = struct.unpack_from(form, content, place)[0]
            return content[name : content.index(b"\0", name)].decode(errors="replace")
    return ""
