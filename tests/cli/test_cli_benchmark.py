"""`tflite-ptq4 benchmark` on this machine, and what it refuses before anything is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_networks import float_dense, int8_conv

from tflite_ptq4.cli import main

KERNEL = np.array([[-7, 3, 5], [1, 0, -1]], np.int8).reshape(2, 1, 1, 3)
SHORT = ["--rounds", "2", "--processes", "2"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    contents = {
        "a.tflite": float_dense(np.eye(4)),
        "b.tflite": int8_conv(KERNEL, packed=True),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in contents]


def test_a_table_for_people(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *files, *SHORT]) == 0
    out, err = capsys.readouterr()
    title, empty, heading, headings, first, second, *_, control, last = out.splitlines()
    assert title.startswith("This machine: ")
    assert (empty, heading) == ("", "1 thread, delegate xnnpack")
    assert headings.split()[:5] == ["file", "bytes", "median", "ms", "p90"]
    assert first.split()[0] == files[0]
    assert first.endswith("0 of 1")
    assert second.endswith("1 of 1: CONV_2D")
    assert control.startswith("The first file against itself: ")
    assert last == ""
    assert "Timing, 1 thread: 2 of 2" in err


def test_json_for_machines(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--threads", "2,1,2", "--delegate", "none", "--json"]
    assert main(["benchmark", files[0], *SHORT, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["delegate"] == "none"
    assert "LiteRT" in result["host"]
    assert [one["threads"] for one in result["comparisons"]] == [2, 1]
    for one in result["comparisons"]:
        assert [row["file"] for row in one["rows"]] == files[:1]
        assert one["rows"][0]["first"]["delegation"]["left"] == {"FULLY_CONNECTED": 1}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_threads_are_held_against_the_cores_that_can_be_used(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert main(["benchmark", files[0], *SHORT, "--threads", "2"]) == 0
    out, err = capsys.readouterr()
    assert ", 1 core, " in out
    assert "Only 1 core can be used here: more threads than that wait for one another." in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent.tflite"], "must be readable"),
        (["text.tflite"], "must be a TFLite file"),
        (["a.tflite", "--serial", "X"], "--serial is for a device: give --android"),
        (["a.tflite", "--validate", "--cool-down", "1"], "--cool-down, --validate is for"),
        (["a.tflite", "--android", "--processes", "3"], "--processes is for this machine"),
        (["a.tflite", "--android", "--data", "."], "--data holds the images of --validate"),
        (["a.tflite", "--android", "--keep", "absent"], "--keep must be an existing folder"),
        (["a.tflite", "--threads", "0"], "must be a whole number above zero, got '0'"),
        (["a.tflite", "--threads", "1,"], "must be a whole number above zero, got ''"),
        (["a.tflite", "--rounds", "1"], "at least 2, got '1'"),
        (["a.tflite", "--cool-down", "-1"], "must be a number of seconds, got '-1'"),
        (["a.tflite", "--delegate", "gpu"], "invalid choice: 'gpu'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str],
    message: str,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.tflite").write_text("no file of that kind")
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_measuring_loads_no_tensorflow() -> None:
    code = (
        "import sys, tflite_ptq4.cli.benchmark, tflite_ptq4.benchmark.host_process\n"
        "print(sorted({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
