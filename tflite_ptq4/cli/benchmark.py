"""`tflite-ptq4 benchmark`: .tflite files in, a table of times out, of this machine or a device."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_ptq4.benchmark.adb import Adb, choose_device, find_adb
from tflite_ptq4.benchmark.comparison import Comparison, Delegation
from tflite_ptq4.benchmark.device import read_device
from tflite_ptq4.benchmark.device_folder import DeviceFolder
from tflite_ptq4.benchmark.device_run import (
    COOL,
    BenchmarkTool,
    DeviceComparison,
    measure_on_device,
)
from tflite_ptq4.benchmark.effort import DeviceEffort, HostEffort
from tflite_ptq4.benchmark.host import describe_host, measure_on_host, usable_cores
from tflite_ptq4.benchmark.interpreters import made_up_inputs, open_file
from tflite_ptq4.benchmark.tool_binary import check_binary
from tflite_ptq4.benchmark.validation import OutputAgreement, validate
from tflite_ptq4.cli.console import message, number, percent, print_json, print_table
from tflite_ptq4.cli.files import check_images, images_from
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.errors import ConfigError, OutputError
from tflite_ptq4.evaluation.runnable_models import read_model_file
from tflite_ptq4.file_identifier import require_identifier
from tflite_ptq4.litert import input_details, to_stored
from tflite_ptq4.progress import track

_OF_A_DEVICE = ("serial", "benchmark_binary", "cool_down", "validate", "data", "keep")
_MOST_OPERATORS = 8


def run(arguments: argparse.Namespace) -> None:
    """Measure the files, and print what was found."""
    for path in arguments.files:
        require_identifier(read_model_file(path), repr(str(path)))
    if arguments.android:
        _run_on_device(arguments)
        return
    given = [name for name in _OF_A_DEVICE if getattr(arguments, name) not in (None, False)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options} is for a device: give --android as well, or leave it out.")
    cores = usable_cores()
    if max(arguments.threads) > cores:
        usable = f"{cores} core{'s' * (cores > 1)}"
        message(f"Only {usable} can be used here: more threads than that wait for one another.")
    effort = HostEffort(**_given(processes=arguments.processes, rounds=arguments.rounds))
    found = [
        measure_on_host(
            arguments.files,
            threads=threads,
            delegate=arguments.delegate,
            effort=effort,
            progress=track,
        )
        for threads in arguments.threads
    ]
    host = describe_host()
    result = {"host": host, "comparisons": [one.to_dict() for one in found]}
    _report(arguments, found, result, where=host)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _run_on_device(arguments: argparse.Namespace) -> None:
    if arguments.processes is not None:
        raise ConfigError("--processes is for this machine: on a device every run is a process.")
    if arguments.data is not None:
        if not arguments.validate:
            raise ConfigError("--data holds the images of --validate: give that as well.")
        check_images(arguments.data)
    if arguments.keep is not None and not arguments.keep.is_dir():
        raise OutputError(
            f"--keep must be an existing folder, but {str(arguments.keep)!r} is none. Make it."
        )
    program = find_adb()
    serial = arguments.serial or os.environ.get("ANDROID_SERIAL")
    adb = Adb(program, choose_device(program, serial).serial)
    device = read_device(adb)
    message(device.describe())
    binary, abi = check_binary(arguments.benchmark_binary, device)
    if abi != device.abis[0]:
        message(
            f"The benchmark binary is for {abi}, not for {device.abis[0]}, the device's own: an "
            "app for that has other times."
        )
    effort = DeviceEffort(**_given(rounds=arguments.rounds, cool_down=arguments.cool_down))
    with DeviceFolder(adb) as folder:
        tool = BenchmarkTool(folder, binary, delegate=arguments.delegate)
        models = [
            folder.push(file, f"{index}.tflite")
            for index, file in enumerate(track("Copying", arguments.files))
        ]
        agreements = _validated(arguments, tool, folder, models) if arguments.validate else None
        measured = [
            measure_on_device(
                adb,
                tool,
                arguments.files,
                models,
                threads=threads,
                effort=effort,
                progress=track,
                keep=arguments.keep,
            )
            for threads in arguments.threads
        ]
    found = [one.comparison for one in measured]
    result = {
        "device": device.to_dict(),
        "comparisons": [one.to_dict() for one in measured],
        "validation": agreements and [one.to_dict() for one in agreements],
    }
    _report(
        arguments,
        found,
        result,
        where=device.describe(),
        emulator=device.emulator,
        measured=measured,
        agreements=agreements,
    )


def _validated(
    arguments: argparse.Namespace, tool: BenchmarkTool, folder: DeviceFolder, models: Sequence[str]
) -> list[OutputAgreement]:
    found = []
    for file, model in zip(arguments.files, models, strict=True):
        with native_stderr_held_back():
            interpreter = open_file(file, threads=1, delegate=arguments.delegate)
        inputs = _inputs(arguments, interpreter, f"Validating {file}")
        found += validate(file, interpreter, tool, folder, model, inputs)
    return found


def _inputs(
    arguments: argparse.Namespace, interpreter: Any, title: str
) -> Iterator[list[np.ndarray]]:
    """For each image the values of every input, as the file stores them."""
    details = input_details(interpreter)
    if arguments.data is None:
        for seed in track(title, range(arguments.samples)):
            yield made_up_inputs(list(details.values()), seed)
        return
    shapes = {name: tuple(map(int, detail["shape"][1:])) for name, detail in details.items()}
    images = images_from(arguments.data, arguments, shapes, arguments.samples).images
    for index in track(title, range(len(images[0]))):
        yield [
            to_stored(array[index : index + 1], detail)
            for array, detail in zip(images, details.values(), strict=True)
        ]


def _report(
    arguments: argparse.Namespace,
    found: Sequence[Comparison],
    result: dict[str, Any],
    *,
    where: str,
    emulator: bool = False,
    measured: Sequence[DeviceComparison] = (),
    agreements: Sequence[OutputAgreement] | None = None,
) -> None:
    warnings = [warning for one in found for warning in one.warnings]
    hot = [state for one in measured for state in one.thermal if state not in COOL]
    if emulator:
        warnings.insert(
            0, "This is an emulator: its times are not a phone's, nor are the ratios between them."
        )
    if hot:
        warnings.append(
            f"The device ran hot (thermal state {', '.join(dict.fromkeys(hot))}) and may have "
            "slowed down. Let it cool, or give a longer --cool-down."
        )
    if arguments.json:
        print_json({**result, "delegate": arguments.delegate, "warnings": warnings})
    else:
        print(f"{where}\n")
        for one in found:
            print_comparison(one, arguments.delegate)
        for file, operators in zip(
            arguments.files, measured[0].operators if measured else (), strict=False
        ):
            _print_operators(file, operators)
        if agreements:
            _print_agreements(agreements)
    for warning in warnings:
        message(f"Warning: {warning}")


def print_comparison(found: Comparison, delegate: str) -> None:
    """Print what was measured with one number of threads as a table, and the control."""
    columns = {
        "file": [row.file for row in found.rows],
        "bytes": [f"{row.bytes:,}" for row in found.rows],
        "median ms": [f"{row.median_ms:.3f}" for row in found.rows],
        "p90": [number(row.p90_ms, "{:.3f}") for row in found.rows],
        "p95": [number(row.p95_ms, "{:.3f}") for row in found.rows],
        "ratio": [f"{row.ratio.value:.3f}" for row in found.rows],
        "spread": ["-"] + [_span(row.ratio.low, row.ratio.high) for row in found.rows[1:]],
        "first ms": [f"{row.first.first_ms:.2f}" for row in found.rows],
        "load ms": [f"{row.first.load_ms:.1f}" for row in found.rows],
        "peak memory MB": [number(row.first.peak_memory_mb, "{:.1f}") for row in found.rows],
        "not in XNNPACK": [_left(row.first.delegation) for row in found.rows],
    }
    shown = {
        name: cells for name, cells in columns.items() if set(cells) != {"-"} or name == "spread"
    }
    print_table(
        f"{found.threads} thread{'s' * (found.threads > 1)}, delegate {delegate}",
        list(shown),
        list(zip(*shown.values(), strict=True)),
    )
    print(
        f"The first file against itself: {found.control.value:.3f} "
        f"({_span(found.control.low, found.control.high)}).\n"
    )


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _left(delegation: Delegation | None) -> str:
    if delegation is None:
        return "-"
    left = sum(delegation.left.values())
    names = ", ".join(
        f"{name} x{count}" if count > 1 else name for name, count in delegation.left.items()
    )
    return f"{left} of {left + delegation.delegated}" + (f": {names}" if names else "")


def _print_operators(file: Path, operators: Sequence[Any]) -> None:
    if not operators:
        return
    total = sum(row.milliseconds for row in operators)
    slowest = sorted(operators, key=lambda row: row.milliseconds, reverse=True)[:_MOST_OPERATORS]
    print_table(
        f"{file}: its slowest of {len(operators)} operators",
        ("operator", "by", "ms", "share", "name"),
        [
            (
                row.operator,
                "XNNPACK" if row.delegated else "own kernel",
                f"{row.milliseconds:.3f}",
                percent(row.milliseconds / total if total else 0.0),
                row.name.split(";")[0],
            )
            for row in slowest
        ],
    )


def _print_agreements(agreements: Sequence[OutputAgreement]) -> None:
    print_table(
        "outputs of the device against this machine's",
        ("file", "output", "images", "values", "different", "largest difference", "same class"),
        [
            (
                one.file,
                one.output.split(";")[0],
                str(one.images),
                f"{one.values:,}",
                f"{one.different:,}",
                f"{one.largest:g}" + (" steps" if one.in_steps else ""),
                percent(one.same_class),
            )
            for one in agreements
        ],
    )
