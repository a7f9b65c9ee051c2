from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tflite_ptq4.cli import console
from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back
from tflite_ptq4.errors import DataError


def test_json_has_no_number_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": [1.5, float("inf")], "b": np.float32("nan"), "c": np.arange(2)})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": None, "c": [0, 1]}


def test_a_plain_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("sizes", ("name", "bytes"), [("a", "1,024"), ("long name", "3")])
    assert capsys.readouterr().out.splitlines() == [
        "sizes",
        "  name       bytes",
        "  a          1,024",
        "  long name      3",
        "",
    ]


def test_a_terminal_gets_the_same_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console.print_table("sizes", ("name", "bytes"), [("[a]", "1,024"), ("b", "3")])
    out = capsys.readouterr().out
    assert "sizes" in out
    assert all(cell in out for cell in ("[a]", "1,024"))


def test_what_libraries_print_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console.results_only_on_stdout():
        print("Saved artifact")
    assert capsys.readouterr() == ("", "Saved artifact\n")


def test_native_notes_show_only_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    with native_stderr_held_back():
        os.write(2, b"a note\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), native_stderr_held_back():
        os.write(2, b"the reason\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "the reason\n"


@pytest.mark.parametrize("end", [DataError("The sentence that is shown."), KeyboardInterrupt()])
def test_native_notes_do_not_show_where_they_explain_nothing(
    end: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(end)), native_stderr_held_back():
        os.write(2, b"a note\n")
        raise end
    assert capfd.readouterr().err == ""


def test_messages_pass_where_they_are_to(capfd: pytest.CaptureFixture[str]) -> None:
    # Where pytest itself captures, `sys.stderr` is no longer the one of the process.
    code = (
        "import os, sys\n"
        "from tflite_ptq4.cli.quiet_tensorflow import native_stderr_held_back\n"
        "before = sys.stderr\n"
        "with native_stderr_held_back(messages_pass=True):\n"
        "    os.write(2, b'a note\\n')\n"
        "    print('Calibrating: ü', file=sys.stderr)\n"
        "assert sys.stderr is before\n"
        "print('done', file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert capfd.readouterr().err == "Calibrating: ü\ndone\n"
    with native_stderr_held_back(messages_pass=True):
        print("Calibrating", file=sys.stderr)
    assert capfd.readouterr().err == "Calibrating\n"


def test_a_reader_that_has_seen_enough_is_no_bug() -> None:
    code = (
        "import os, sys\n"
        "from tflite_ptq4 import cli\n"
        "cli._run = lambda arguments: print('x' * 100_000)\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "os.dup2(writer, 1)\n"
        "sys.exit(cli.main(['inspect', 'x']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (141, "")
