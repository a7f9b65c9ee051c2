"""Reading what TensorFlow's `benchmark_model` prints, in the wordings of its versions since 1.13.

Numbers are found by the words before them, and columns of the operators' table by their headings:
lines may begin with `INFO: ` or a log's stamp, a start column came and went, and medians came late.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tflite_ptq4.errors import FileFormatError

_NUMBER = r"([-+.\de]+)"
_TIMINGS = re.compile(
    rf"nference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): \S+, Inference \(avg\): {_NUMBER}"
)
# TensorFlow 1.13 to 2.2; 1.13 calls the inference "no stats".
_OLD_TIMINGS = re.compile(
    rf"verage inference timings in us: Warmup: \S+, Init: {_NUMBER}, (?:Inference|no stats): "
    rf"{_NUMBER}"
)
_MEMORY = re.compile(
    rf"emory footprint (?:delta from the start of the tool )?\(MB\): init=\S+ overall={_NUMBER}"
)
_COUNT = re.compile(r"\bcount=\d+ .*")
_UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: (.*)")
_UNIT_MS = 1e-3
_COARSE_MS = 100 * _UNIT_MS
_PROFILE = "Operator-wise Profiling Info for Regular Benchmark Runs:"


@dataclass(frozen=True)
class OperatorTime:
    """One row of the operators' table.

    Attributes:
        operator: kind of the operator, or XNNPACK's name for what it has made of one.
        name: of its output, or of the delegate's part.
        milliseconds: in one inference.
        delegated: whether a delegate computes it.
    """

    operator: str
    name: str
    milliseconds: float
    delegated: bool


@dataclass(frozen=True)
class ToolOutput:
    """What one run of `benchmark_model` has measured.

    Attributes:
        load_ms: until inputs can be set.
        first_ms: the first inference.
        average_ms: of the inferences after the warm-up.
        median_ms, p95_ms: of the same, None before the versions of 2025 print them.
        peak_memory_mb: what loading and running has added at most (the tool subtracts what the
            system calls the largest resident size), in MiB, None where it cannot tell.
        operators: in the order of their computation, with `--enable_op_profiling`.
        unknown_flags: flags that this version does not know and has passed over.
    """

    load_ms: float
    first_ms: float
    average_ms: float
    median_ms: float | None
    p95_ms: float | None
    peak_memory_mb: float | None
    operators: tuple[OperatorTime, ...]
    unknown_flags: tuple[str, ...]

    @property
    def typical_ms(self) -> float:
        """Return the median, or the average where that says more.

        Old versions print no median, and of inferences in few microseconds, the tool's unit, it is
        too coarse.
        """
        if self.median_ms is None or self.median_ms < _COARSE_MS:
            return max(self.average_ms, _UNIT_MS / 2)
        return self.median_ms

    def operators_left(self) -> Mapping[str, int]:
        """Return the operators of the table that no delegate computes: name -> how many."""
        return Counter(row.operator for row in self.operators if not row.delegated)


def read_tool_output(text: str) -> ToolOutput:
    """Return what the output of `benchmark_model` says.

    Raises:
        FileFormatError: it holds no timings.
    """
    counts = [_values(line) for line in text.splitlines() if _is_count(line)]
    if found := _TIMINGS.search(text):
        load, first, average = map(float, found.groups())
    elif (found := _OLD_TIMINGS.search(text)) and counts:
        load, average = map(float, found.groups())
        first = counts[0].get("first", counts[0].get("curr", float("nan")))
    else:
        raise FileFormatError(
            "The output of benchmark_model must hold a line `Inference timings in us`, but has "
            f"{len(text.splitlines())} lines without one."
        )
    regular = counts[-1] if counts else {}
    memory = _MEMORY.search(text)
    unknown = _UNKNOWN_FLAGS.search(text)
    return ToolOutput(
        load_ms=load / 1e3,
        first_ms=first / 1e3,
        average_ms=average / 1e3,
        median_ms=regular["median"] / 1e3 if "median" in regular else None,
        p95_ms=regular["p95"] / 1e3 if "p95" in regular else None,
        peak_memory_mb=float(memory.group(1)) if memory else None,
        operators=_operators(text),
        unknown_flags=tuple(unknown.group(1).split()) if unknown else (),
    )


def _is_count(line: str) -> bool:
    # The profile ends with counts of its own.
    return _COUNT.search(line) is not None and "Timings (" not in line and "Memory (" not in line


def _values(line: str) -> dict[str, float]:
    return {key: float(value) for key, value in re.findall(rf"(\w+)={_NUMBER}", line)}


def _operators(text: str) -> tuple[OperatorTime, ...]:
    """The rows of the tables in run order: of the graph, and of the insides of a delegate."""
    _, _, profile = text.rpartition(_PROFILE)
    rows: list[OperatorTime] = []
    headings: list[str] = []
    in_order = False
    for line in profile.splitlines():
        if "=====" in line:
            in_order, headings = "Run Order" in line, []
        elif in_order and "[node type]" in line:
            headings = _cells(line[line.index("[node type]") :])
        elif headings and "%" in line:
            rows.append(_row(headings, _cells(line)))
        elif headings:
            in_order, headings = False, []
    return tuple(rows)


def _cells(line: str) -> list[str]:
    """Cells stand between tabs, or between spaces where a log has replaced those."""
    return re.split(r"\t\s*|\s{2,}", line.strip())


def _row(headings: list[str], cells: list[str]) -> OperatorTime:
    # From the right: a log's stamp may stand before the first cell.
    found = dict(zip(reversed(headings), reversed(cells), strict=False))
    operator, name = found["[node type]"].strip(), found["[Name]"]
    calls = max(int(found["[times called]"]), 1)  # 0 where a version did not count
    return OperatorTime(
        operator=operator,
        name=re.sub(r"^\[(.*)\](:\d+)?$", r"\1", name),
        milliseconds=float(found["[avg ms]"]) * calls,
        delegated=name.startswith("Delegate/")
        or re.fullmatch(r"TfLite\w+Delegate\w*", operator) is not None,
    )
