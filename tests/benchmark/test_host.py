from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_networks import float_dense, int8_conv

from tflite_ptq4.benchmark import host, host_process
from tflite_ptq4.benchmark.comparison import Comparison, Delegation, FirstRun, compare
from tflite_ptq4.benchmark.effort import HostEffort
from tflite_ptq4.benchmark.host import measure_on_host
from tflite_ptq4.benchmark.paired_ratios import Ratio
from tflite_ptq4.errors import FileFormatError

SHORT = HostEffort(processes=2, rounds=3, block_ms=0.5, first_runs=2)


def silently(title: str, items: Sequence[Any]) -> Iterator[Any]:
    yield from items


def measured(files: list[Path], **changes: Any) -> Comparison:
    options = {"threads": 1, "delegate": "xnnpack", "effort": SHORT, "progress": silently}
    return measure_on_host(files, **{**options, **changes})


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A small network, and one of a thousand times its work."""
    paths = [tmp_path / "small.tflite", tmp_path / "large.tflite"]
    paths[0].write_bytes(float_dense(np.eye(4)))
    kernel = np.ones((64, 3, 3, 64), np.int8)
    paths[1].write_bytes(int8_conv(kernel, packed=True, side=8))
    return paths


def test_files_are_measured_against_the_first(files: list[Path]) -> None:
    titles = []

    def progress(title: str, items: Sequence[Any]) -> Iterator[Any]:
        titles.append((title, len(items)))
        yield from items

    found = measured(files, threads=2, progress=progress)
    assert titles == [("First runs, 2 threads", 4), ("Timing, 2 threads", 2)]
    small, large = found.rows
    assert (small.file, small.bytes) == (str(files[0]), files[0].stat().st_size)
    assert small.ratio == Ratio(1.0, 1.0, 1.0)
    assert large.ratio.value > 2
    assert large.ratio.low <= large.ratio.value <= large.ratio.high
    for row in found.rows:
        assert 0 < row.median_ms <= row.p90_ms <= row.p95_ms
        assert row.first.load_ms > 0 < row.first.first_ms
        assert row.first.peak_memory_mb is not None
    assert small.first.delegation == Delegation(1, {})
    assert large.first.delegation == Delegation(0, {"CONV_2D": 1})
    assert found.threads == 2
    assert 0 < found.control.low <= found.control.high


def test_the_first_file_is_its_own_control(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(request: dict[str, Any]) -> Any:
        asked.append(request)
        if "rounds" in request:
            # The control takes 2 ms, the first file 1 and the second one 3.
            return [[[taken, taken]] * request["rounds"] for taken in (2.0, 1.0, 3.0)]
        return asdict(FirstRun(1.0, 1.0, 1.0, Delegation(1, {})))

    monkeypatch.setattr(host, "_ask", answer)
    found = measured(files)
    assert found.control.value == pytest.approx(2.0)
    assert [row.median_ms for row in found.rows] == [1.0, 3.0]
    first, second = map(str, files)
    in_turn = [request for request in asked if "rounds" in request]
    assert [request["files"] for request in in_turn] == [[first, first, second]] * 2
    assert [request["alternating"] for request in in_turn] == [False, True]
    alone = [request["files"] for request in asked if "rounds" not in request]
    assert alone == [[first], [second]] * 2


class Clock:
    """Time that passes while files run: 1 ms, and 5 for the first time after another file."""

    def __init__(self) -> None:
        self.now, self.order = 0, ""

    def file(self, path: Path, **_: Any) -> Any:
        def invoke() -> None:
            self.now += 1_000_000 if self.order.endswith(path.name) else 5_000_000
            self.order += path.name

        return SimpleNamespace(invoke=invoke, get_input_details=list)


@pytest.mark.parametrize(("alternating", "expected"), [(False, 1.0), (True, 5.0)])
def test_files_take_turns(
    alternating: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(host_process, "open_file", clock.file)
    monkeypatch.setattr(host_process.time, "perf_counter_ns", lambda: clock.now)
    turns = {"rounds": 20, "block_ms": 4.0, "alternating": alternating, "seed": 0}
    taken = host_process.times_in_turn([Path("a"), Path("b")], threads=1, delegate="none", **turns)
    assert [[len(block) for block in blocks] for blocks in taken] == [[4] * 20] * 2
    # Alternating, one inference in four still follows one of the same file: last in its turn, then
    # first in the next one.
    share = 0.75 if alternating else 1.0
    assert np.mean(np.array(taken) == expected) == pytest.approx(share, abs=0.1)


def test_a_file_that_cannot_be_loaded_is_refused(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes()[:400])
    with pytest.raises(FileFormatError, match=r"able to load '.*large\.tflite', but reports: "):
        measured(files)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "its process ended with SIGSEGV"),
        ("echo 'RuntimeError: no kernel' >&2; exit 1", "but reports: RuntimeError: no kernel"),
    ],
)
def test_a_process_that_fails_is_told(
    script: str,
    message: str,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(host.sys, "executable", str(python))
    with pytest.raises(FileFormatError, match=message):
        measured(files)


def test_what_was_measured_is_put_together() -> None:
    # Of the control, the reference and another file: two processes of three rounds.
    blocks = np.array([[[1.1, 2.2, 1.1]] * 2, [[1, 2, 1]] * 2, [[3, 6, 3]] * 2])
    runs = [
        FirstRun(1.0, 5.0, 10.0, None),
        FirstRun(2.0, 4.0, None, None),
        FirstRun(9.0, 9.0, 12.0, None),
    ]
    times = {"median_ms": 1.0, "p90_ms": 2.0, "p95_ms": None}
    found = compare(
        ["a", "b"], [10, 20], threads=4, blocks=blocks, times=[times] * 2, first=[runs] * 2
    )
    assert found.control.value == pytest.approx(1.1)
    assert found.rows[1].ratio.value == pytest.approx(3.0)
    assert found.rows[1].first == FirstRun(2.0, 5.0, 11.0, None)
    assert found.to_dict()["rows"][1]["ratio"]["low"] == pytest.approx(3.0)
    assert len(found.warnings) == 1
