"""What a process of its own does for the benchmark on this machine: one request in, one answer out.

    python -m tflite_ptq4.benchmark.host_process REQUEST

The request is a JSON object: `files`, `threads`, `delegate`, and either nothing else, for the first
run of one file, or those of `times_in_turn`, for files in turn. The answer is one on stdout.
A new process has loaded nothing yet, so its memory is the file's, and memory comes to lie elsewhere
in each, which changes times.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tflite_ptq4.benchmark.comparison import FirstRun
from tflite_ptq4.benchmark.interpreters import (
    delegation,
    made_up_inputs,
    open_file,
    set_inputs,
)
from tflite_ptq4.errors import FileFormatError

REFUSED = "refused"
_FEWEST_IN_A_BLOCK, _MOST_IN_A_BLOCK = 3, 500
_WARM_UP = 3


def first_run(path: Path, *, threads: int, delegate: str) -> FirstRun:
    """Load a file in this process and run it for the first time.

    Args:
        path: of the `.tflite` file.
        threads: of the interpreter.
        delegate: "xnnpack" or "none".
    """
    import ai_edge_litert.interpreter  # noqa: F401  what is measured is the file, not the runtime

    with suppress(OSError):  # Linux: let the peak begin anew
        Path("/proc/self/clear_refs").write_text("5")
    before = _memory_mb("VmRSS")
    start = time.perf_counter()
    interpreter = open_file(path, threads=threads, delegate=delegate)
    loaded = time.perf_counter()
    set_inputs(interpreter, made_up_inputs(interpreter.get_input_details()))
    begun = time.perf_counter()
    interpreter.invoke()
    done = time.perf_counter()
    for _ in range(_WARM_UP):
        interpreter.invoke()
    return FirstRun(
        load_ms=(loaded - start) * 1e3,
        first_ms=(done - begun) * 1e3,
        peak_memory_mb=max(_memory_mb("VmHWM") - before, 0.0),
        delegation=delegation(interpreter),
    )


def times_in_turn(
    paths: list[Path],
    *,
    threads: int,
    delegate: str,
    rounds: int,
    block_ms: float,
    alternating: bool,
    seed: int,
) -> list[list[list[float]]]:
    """Run files in turn: A B A B.

    A turn is a block of as many inferences as fill `block_ms`; its first one finds the caches as
    another file has left them and is not counted. `alternating`, each turn is one inference, so
    that all of them find the caches like that. The order is drawn anew for each turn.

    Args:
        paths: of the `.tflite` files.
        threads: of the interpreter.
        delegate: "xnnpack" or "none".
        rounds: how many turns each file has.
        block_ms: how long a turn lasts at least, in milliseconds.
        alternating: whether a turn is one inference.
        seed: of the order of the files.

    Returns:
        Milliseconds of the inferences: for each file, for each round.
    """
    interpreters = [open_file(path, threads=threads, delegate=delegate) for path in paths]
    counts = []
    for interpreter in interpreters:
        set_inputs(interpreter, made_up_inputs(interpreter.get_input_details()))
        needed = math.ceil(block_ms / float(np.median(_block(interpreter, _WARM_UP))))
        counts.append(min(max(needed, _FEWEST_IN_A_BLOCK), _MOST_IN_A_BLOCK))
    for interpreter, count in zip(interpreters, counts, strict=True):
        _block(interpreter, count)
    rng = np.random.default_rng(seed)
    taken: list[list[list[float]]] = [[] for _ in paths]
    for _ in range(rounds):
        for own in taken:
            own.append([])
        for _ in range(min(counts) if alternating else 1):
            # In a fixed order, each file would always follow one and the same other.
            for place in rng.permutation(len(paths)).tolist():
                block = _block(interpreters[place], 1 if alternating else 1 + counts[place])
                taken[place][-1] += block if alternating else block[1:]
    return taken


def _block(interpreter: Any, count: int) -> list[float]:
    """Milliseconds of some inferences on end."""
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        interpreter.invoke()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def _memory_mb(entry: str) -> float:
    """Resident memory of this process in MiB: `VmRSS`, or `VmHWM` for its peak."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        # Elsewhere there is the peak alone, in bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (line,) = [line for line in status.splitlines() if line.startswith(f"{entry}:")]
    return int(line.split()[1]) / 2**10


def answer(request: dict[str, Any]) -> Any:
    """Do what a request asks for."""
    files = [Path(file) for file in request.pop("files")]
    try:
        if "rounds" in request:
            return times_in_turn(files, **request)
        return asdict(first_run(files[0], **request))
    except FileFormatError as error:
        return {REFUSED: str(error)}


if __name__ == "__main__":
    json.dump(answer(json.loads(sys.argv[1])), sys.stdout)
