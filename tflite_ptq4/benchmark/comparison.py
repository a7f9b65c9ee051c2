"""What a benchmark finds: one row for each file, the first being what the others are held against.

Host and device fill in the same values, so that they make the same table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tflite_ptq4.benchmark.paired_ratios import Ratio, noise_warnings, paired_ratio


@dataclass(frozen=True)
class Delegation:
    """Who computes the operators of a file.

    Attributes:
        delegated: how many operators XNNPACK has taken over.
        left: operators that the runtime's own kernels compute: name -> how many.
    """

    delegated: int
    left: Mapping[str, int]


@dataclass(frozen=True)
class FirstRun:
    """A file in a process of its own, from loading it to its first answer.

    Attributes:
        load_ms: until inputs can be set.
        first_ms: the first inference, which prepares what later ones reuse.
        peak_memory_mb: what loading and running the file has added to the process at most, in MiB.
        delegation: None where the runtime did not say.
    """

    load_ms: float
    first_ms: float
    peak_memory_mb: float | None
    delegation: Delegation | None


@dataclass(frozen=True)
class FileRow:
    """One file's measures.

    Attributes:
        file: its name.
        bytes: its length.
        median_ms: of an inference once the file is warm.
        p90_ms, p95_ms: time that 90 or 95 % of the inferences kept within, None where not known.
        ratio: of the times to the first file's; of the first file, exactly 1.
        first: medians of its first runs.
    """

    file: str
    bytes: int
    median_ms: float
    p90_ms: float | None
    p95_ms: float | None
    ratio: Ratio
    first: FirstRun


@dataclass(frozen=True)
class Comparison:
    """Files measured against one another with one number of threads.

    Attributes:
        threads: of the interpreter.
        rows: one for each file, in the order given.
        control: ratio of the first file to itself, as if it had been given twice.
        warnings: what noise hides, a sentence each.
    """

    threads: int
    rows: tuple[FileRow, ...]
    control: Ratio
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(
    names: Sequence[str],
    sizes: Sequence[int],
    *,
    threads: int,
    blocks: np.ndarray,
    times: Sequence[Mapping[str, float | None]],
    first: Sequence[Sequence[FirstRun]],
) -> Comparison:
    """Put together what was measured.

    Args:
        names: of the files.
        sizes: their lengths in bytes.
        threads: of the interpreter.
        blocks: milliseconds, float64 [1 + files, blocks, rounds]; entry 0 is the first file once
            more, the control.
        times: for each file `median_ms`, `p90_ms` and `p95_ms`.
        first: for each file its first runs, at least one.
    """
    control, *measured = blocks
    ratios = [Ratio(1.0, 1.0, 1.0)] + [paired_ratio(other, measured[0]) for other in measured[1:]]
    rows = tuple(
        FileRow(file=name, bytes=size, **found, ratio=ratio, first=_median_run(runs))
        for name, size, found, ratio, runs in zip(names, sizes, times, ratios, first, strict=True)
    )
    itself = paired_ratio(control, measured[0])
    warnings = noise_warnings(itself, dict(zip(names[1:], ratios[1:], strict=True)), names[0])
    return Comparison(threads, rows, itself, tuple(warnings))


def _median_run(runs: Sequence[FirstRun]) -> FirstRun:
    memory = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
    return FirstRun(
        load_ms=float(np.median([run.load_ms for run in runs])),
        first_ms=float(np.median([run.first_ms for run in runs])),
        peak_memory_mb=float(np.median(memory)) if memory else None,
        delegation=runs[0].delegation,
    )
