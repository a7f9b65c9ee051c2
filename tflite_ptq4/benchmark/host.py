"""Files measured on this machine: in turn, in several processes, and each alone."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tflite_ptq4.benchmark.comparison import Comparison, Delegation, FirstRun, compare
from tflite_ptq4.benchmark.effort import HostEffort
from tflite_ptq4.benchmark.host_process import REFUSED
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.progress import Track


def usable_cores() -> int:
    """Return how many cores this process may use; a container may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux has it, macOS and Windows do not.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_host() -> str:
    """Return this machine in a line: processor, cores, system, and the version of LiteRT."""
    cpu = platform.machine()
    try:
        listed = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        listed = []
    names = [line.partition(":")[2].strip() for line in listed if line.startswith("model name")]
    cpu += f" ({names[0]})" if names else ""
    cores = usable_cores()
    return (
        f"This machine: {cpu}, {cores} core{'s' * (cores > 1)}, {platform.system()}, LiteRT "
        f"{version('ai-edge-litert')}"
    )


def measure_on_host(
    files: Sequence[Path],
    *,
    threads: int,
    delegate: str,
    effort: HostEffort,
    progress: Track,
) -> Comparison:
    """Measure files against the first of them.

    Args:
        files: `.tflite` files.
        threads: of the interpreter.
        delegate: "xnnpack" or "none".
        effort: how long to measure.
        progress: called with a description and a list of things to do; wraps the list.

    Raises:
        FileFormatError: LiteRT cannot load or run a file.
    """
    options = {"threads": threads, "delegate": delegate}
    title = f"{threads} thread{'s' * (threads > 1)}"
    alone = [
        (place, file)
        for _ in range(effort.first_runs)
        for place, file in enumerate(map(str, files))
    ]
    first: list[list[FirstRun]] = [[] for _ in files]
    for place, file in progress(f"First runs, {title}", alone):
        found = _ask({"files": [file], **options})
        first[place].append(FirstRun(**{**found, "delegation": Delegation(**found["delegation"])}))
    # The first file once more: how far it is from itself is chance.
    in_turn = [str(file) for file in (files[0], *files)]
    taken = []
    for seed in progress(f"Timing, {title}", range(effort.processes)):
        # How the files take turns shifts the ratio by a few percent. Neither way is the right
        # one, so the spread is to cover both.
        turns = {"alternating": seed % 2 == 1, "block_ms": effort.block_ms}
        request = {"rounds": effort.rounds, **turns, "seed": seed}
        taken.append(_ask({"files": in_turn, **options, **request}))
    blocks = [
        [[np.median(block) for block in own[place]] for own in taken]
        for place in range(len(in_turn))
    ]
    return compare(
        [str(file) for file in files],
        [file.stat().st_size for file in files],
        threads=threads,
        blocks=np.asarray(blocks),
        times=[_summary([own[place] for own in taken]) for place in range(1, len(in_turn))],
        first=first,
    )


def _summary(taken: list[list[list[float]]]) -> dict[str, float | None]:
    times = np.concatenate([block for own in taken for block in own])
    median, p90, p95 = np.quantile(times, (0.5, 0.9, 0.95)).tolist()
    return {"median_ms": median, "p90_ms": p90, "p95_ms": p95}


def _ask(request: dict[str, Any]) -> Any:
    """Let a process of its own answer a request."""
    done = subprocess.run(
        [sys.executable, "-m", "tflite_ptq4.benchmark.host_process", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    files = ", ".join(map(repr, request["files"]))
    if done.returncode < 0:
        raise FileFormatError(
            f"LiteRT must be able to run {files}, but its process ended with "
            f"{signal.Signals(-done.returncode).name}. The file may be damaged: write or download "
            "it again."
        )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason"]
        raise FileFormatError(f"LiteRT must be able to run {files}, but reports: {reason[0]}")
    found = json.loads(done.stdout)
    if isinstance(found, dict) and REFUSED in found:
        raise FileFormatError(found[REFUSED])
    return found
