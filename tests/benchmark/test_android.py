"""The whole way to a device: the real `adb` client and server, and a stand-in for the device."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import device_benchmark_model as tool
import numpy as np
import pytest
from adb_server import adb_server, attached
from device_stand_in import EMULATOR, PHONE, StandIn
from small_networks import float_dense, int8_conv

from tflite_ptq4.benchmark.adb import Adb, AttachedDevice, ShellResult, choose_device, find_adb
from tflite_ptq4.cli import main

KERNEL = np.array([[-7, 3, 5], [1, 0, -1]], np.int8).reshape(2, 1, 1, 3)

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the stand-in's program is one for Linux on x86-64",
)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with adb_server(tmp_path_factory.mktemp("adb")):
        yield


@pytest.fixture
def device(tmp_path: Path, _server: None) -> Iterator[StandIn]:
    with attached(StandIn(tmp_path / "device")) as device:
        yield device


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`benchmark --android` of two files, as short as it can be."""
    (tmp_path / "first.tflite").write_bytes(float_dense(np.eye(4)))
    (tmp_path / "it's.tflite").write_bytes(int8_conv(KERNEL, packed=True))
    program = tool.write_program(tmp_path / "benchmark_model")
    files = [str(tmp_path / "first.tflite"), str(tmp_path / "it's.tflite")]
    short = ["--rounds", "2", "--cool-down", "0"]
    return ["benchmark", *files, "--android", "--benchmark-binary", str(program), *short]


def answer(command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return next(line for line in err.splitlines() if line.startswith("tflite-ptq4: "))


def test_files_are_measured_and_validated_on_a_device(
    device: StandIn, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    more = ["--threads", "2", "--validate", "--samples", "2", "--keep", str(kept)]
    result, err = answer([*command, *more], capsys)
    assert result["device"] == {
        "serial": device.serial,
        "model": "Stand-in Phone 1",
        "emulator": False,
        "abis": ["x86_64", "x86"],
        "soc": "Maker SoC 7",
        "android": "14 (API 34)",
        "cores": result["device"]["cores"],
        "thermal": "none",
    }
    assert "Stand-in Phone 1, Maker SoC 7, x86_64, Android 14 (API 34)" in err
    (one,) = result["comparisons"]
    assert one["threads"] == 2
    first, second = one["rows"]
    assert first["file"] == command[1]
    assert first["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert second["ratio"]["low"] <= second["ratio"]["value"] <= second["ratio"]["high"]
    assert first["first"]["peak_memory_mb"] == 2.25
    assert first["first"]["delegation"] == {"delegated": 1, "left": {}}
    assert second["first"]["delegation"] == {"delegated": 0, "left": {"CONV_2D": 1}}
    assert [rows[0]["delegated"] for rows in one["operators"]] == [True, False]
    assert one["thermal"] == ["none"]
    assert [(one["values"], one["different"]) for one in result["validation"]] == [
        (2 * 4, 0),
        (2 * 4 * 4 * 2, 0),
    ]
    # Two files are profiled, and three run in two rounds: the first is its own control.
    assert len(list(kept.iterdir())) == 2 + 3 * 2
    assert "Inference timings" in (kept / "2_threads_round_1_file_1_again.txt").read_text()
    runs = [text for text in device.commands if "--num_threads=2" in text]
    assert len(runs) == 8
    assert all("--use_xnnpack=true" in text for text in runs)
    assert device.left_behind() == []


def test_the_tables_for_people(
    device: StandIn, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del command[1]
    assert main([*command, "--delegate", "none", "--validate", "--samples", "1"]) == 0
    out, _ = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"Device {device.serial}: Stand-in Phone 1, ")
    assert lines[2] == "1 thread, delegate none"
    assert lines[3].split("  ")[1:3] == ["file", lines[3].split("  ")[2]]
    assert "p95" in lines[3]
    assert "p90" not in lines[3]
    assert lines[4].endswith("1 of 1: CONV_2D")
    assert "it's.tflite: its slowest of 1 operators" in out
    assert "outputs of the device against this machine's" in out
    assert "0 steps" in out
    assert all("--use_xnnpack=false" in text for text in device.commands if "--graph" in text)


@pytest.mark.parametrize("with_data", [False, True])
def test_another_integer_is_found(
    with_data: bool,
    device: StandIn,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del command[1]
    device.environment = {tool.OTHER: "1"}
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8))
    data = ["--data", str(images), "--mean", "128", "--std", "16"] if with_data else []
    result, _ = answer([*command, "--validate", "--samples", "2", *data], capsys)
    (found,) = result["validation"]
    assert (found["images"], found["values"]) == (2, 2 * 4 * 4 * 2)
    assert (found["different"], found["largest"], found["in_steps"]) == (2, 1, True)


def test_devices_without_exit_codes_are_served(
    tmp_path: Path, _server: None, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with attached(StandIn(tmp_path / "old", shell_v2=False)) as device:
        shell = Adb(find_adb(), device.serial).shell
        assert shell("echo out; echo err >&2; exit 7") == ShellResult("out\nerr\n", 7)
        device.environment = {tool.CRASH: str(int(signal.SIGILL))}
        assert "crashed with SIGILL" in refusal(command, capsys)


def test_an_emulator_and_a_hot_device_are_told(
    tmp_path: Path,
    _server: None,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # When the device is read, when measuring begins, until it has cooled down before the first
    # round, before the second one, and in the end.
    states, slept = [0, 0, 3, 1, 0, 0, 2], []
    monkeypatch.setattr("tflite_ptq4.benchmark.device_run.sleep", slept.append)
    del command[2]
    translating = {**EMULATOR, "ro.product.cpu.abilist": "arm64-v8a,x86_64"}
    with attached(StandIn(tmp_path / "warm", properties=translating, thermal_status=states)):
        result, err = answer([*command[:-1], "2.5"], capsys)
    # A run for the operators, and in each round one of the file and one of it as control.
    assert slept == [2.5, 5.0, 5.0, 2.5, 2.5, 2.5, 2.5]
    assert result["device"]["emulator"]
    assert result["comparisons"][0]["thermal"] == ["none", "moderate"]
    assert "Warning: This is an emulator: its times are not a phone's" in err
    assert "The benchmark binary is for x86_64, not for arm64-v8a, the device's own" in err
    assert "Warning: The device ran hot (thermal state moderate)" in err
    assert err.count("Warning: ") >= len(result["warnings"]) >= 2


def _crashing(device: StandIn) -> None:
    device.environment = {tool.CRASH: str(int(signal.SIGSEGV))}


def _full(device: StandIn) -> None:
    device.space = 400


def _old_tool(device: StandIn) -> None:
    device.environment = {tool.UNKNOWN: "--output_filepath"}


def _another_tool(device: StandIn) -> None:
    device.environment = {tool.UNKNOWN: "--use_xnnpack"}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_crashing, "benchmark_model must run through on {serial}, but crashed with SIGSEGV; it "),
        (_full, "but its storage is full. Free space on it"),
        (_old_tool, "must know --output_filepath"),
        (_another_tool, "must know --use_xnnpack=true, but passes over it"),
    ],
)
def test_what_fails_on_the_device_is_a_sentence_and_nothing_stays(
    prepare: Callable[[StandIn], None],
    message: str,
    device: StandIn,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(device)
    said = refusal([*command, "--validate", "--samples", "1"], capsys)
    assert message.format(serial=device.serial) in said
    assert device.left_behind() == []


def test_a_lost_device_is_told_and_what_stays_there(
    device: StandIn, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    device.lost_at = "--enable_op_profiling"
    assert main(command) == 2
    _, err = capsys.readouterr()
    assert "the connection broke" in err
    (left,) = device.left_behind()
    assert f"adb -s {device.serial} shell rm -rf /data/local/tmp/{left}" in err
    # It is still listed, as offline.
    assert f"{device.serial} does not answer" in refusal(command, capsys)


def test_ctrl_c_ends_the_program_and_cleans_up(device: StandIn, command: list[str]) -> None:
    device.environment = {tool.SLOW: "60"}
    slow = device.scratch / "bin" / "rm"
    slow.write_text('#!/bin/sh\ntouch cleaning\nsleep 0.5\nexec /bin/rm "$@"\n')
    slow.chmod(0o755)
    running = subprocess.Popen(
        [sys.executable, "-m", "tflite_ptq4", *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    process = _waited_for(lambda: next(device.tmp.glob("*/process"), None))
    number = int(_waited_for(process.read_text))
    os.killpg(running.pid, signal.SIGINT)
    # Impatience does not stop the cleaning.
    _waited_for((device.scratch / "cleaning").exists)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.endswith("tflite-ptq4: interrupted\n")
    assert "could not be cleaned up" not in err
    assert device.left_behind() == []
    _waited_for(lambda: not _runs(number))


def _waited_for(look: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("It did not come about.")


def _runs(number: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(number, 0)
        return True
    return False


def test_no_device(_server: None, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "`adb devices` lists none. Plug a phone in" in refusal(command, capsys)
    said = refusal([*command, "--serial", "X1"], capsys)
    assert "'X1' must be attached, but `adb devices` lists no device" in said


def test_two_devices_and_the_one_that_is_meant(
    device: StandIn, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with attached(
        StandIn(tmp_path / "other", properties={**PHONE, "ro.product.model": "B"})
    ) as other:
        said = refusal(command, capsys)
        assert f"{device.serial} (Phone_1)" in said
        assert f"{other.serial} (B)" in said
        assert "Name one with --serial" in said
        assert choose_device(find_adb(), other.serial) == AttachedDevice(
            other.serial, "device", "B"
        )


def test_an_unauthorised_device(
    tmp_path: Path, _server: None, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with attached(StandIn(tmp_path / "locked", authorised=False)):
        assert "allow USB debugging in the question on its screen" in refusal(command, capsys)


def test_another_abi_and_no_program(
    device: StandIn, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.write_program(tmp_path / "benchmark_model", machine=183)
    assert "must be for x86_64 or x86, which" in refusal(command, capsys)
    at = command.index("--benchmark-binary")
    del command[at : at + 2]
    assert "None is published for x86_64: build it" in refusal(command, capsys)
    assert not any("mkdir" in text for text in device.commands)


def test_no_adb(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    assert "Install Android's platform-tools" in refusal(command, capsys)
