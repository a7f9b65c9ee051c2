"""Files measured on an Android device with TensorFlow's `benchmark_model`: in turn, cooled down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.benchmark.adb import Adb
from tflite_ptq4.benchmark.comparison import Comparison, Delegation, FirstRun, compare
from tflite_ptq4.benchmark.device import thermal_state
from tflite_ptq4.benchmark.device_folder import DeviceFolder
from tflite_ptq4.benchmark.effort import DeviceEffort
from tflite_ptq4.benchmark.tool_output import OperatorTime, ToolOutput, read_tool_output
from tflite_ptq4.errors import DeviceError, FileFormatError
from tflite_ptq4.progress import Track

COOL = ("none", "unknown")


@dataclass(frozen=True)
class DeviceComparison:
    """What was measured on a device with one number of threads.

    Attributes:
        comparison: of the files, as on the host.
        operators: for each file its operators' times, in the order of their computation.
        thermal: states that were met, in their order.
    """

    comparison: Comparison
    operators: tuple[tuple[OperatorTime, ...], ...]
    thermal: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        operators = [[asdict(row) for row in rows] for rows in self.operators]
        return {**self.comparison.to_dict(), "operators": operators, "thermal": self.thermal}


class BenchmarkTool:
    """The program `benchmark_model` in a folder of a device."""

    def __init__(self, folder: DeviceFolder, binary: Path, *, delegate: str) -> None:
        self._folder = folder
        self._program = folder.push(binary, "benchmark_model", program=True)
        self._delegate = f"--use_xnnpack={str(delegate == 'xnnpack').lower()}"

    def run(self, model: str, *flags: str, seconds: float) -> tuple[ToolOutput, str]:
        """Run a model of the device.

        Returns:
            What was measured, and all that was printed.

        Raises:
            DeviceError: it fails, or does not know a flag that it needs.
        """
        command = [self._program, f"--graph={model}", self._delegate, *flags]
        text = self._folder.run(command, seconds=seconds)
        try:
            output = read_tool_output(text)
        except FileFormatError as error:
            raise DeviceError(f"The benchmark binary must be benchmark_model. {error}") from error
        if output.unknown_flags:
            raise DeviceError(
                f"The benchmark binary must know {', '.join(output.unknown_flags)}, but passes "
                "over it. Take the current benchmark_model of the Interpreter API."
            )
        return output, text


def measure_on_device(
    adb: Adb,
    tool: BenchmarkTool,
    files: Sequence[Path],
    models: Sequence[str],
    *,
    threads: int,
    effort: DeviceEffort,
    progress: Track,
    keep: Path | None = None,
) -> DeviceComparison:
    """Measure files against the first of them.

    Args:
        adb: of the device.
        tool: what runs them there.
        files: `.tflite` files of this machine.
        models: their paths on the device.
        threads: of the interpreter.
        effort: how long to measure.
        progress: called with a description and a list of things to do; wraps the list.
        keep: a folder for all that the tool prints, None to drop it.

    Raises:
        DeviceError: the device is lost, or the tool fails.
    """
    title = f"{threads} thread{'s' * (threads > 1)}"
    flags = (
        f"--num_threads={threads}",
        "--warmup_runs=1",
        f"--warmup_min_secs={effort.run_seconds / 2}",
        "--num_runs=20",
        f"--min_secs={effort.run_seconds}",
        f"--max_secs={30 * effort.run_seconds}",
    )
    seconds = 120 + 60 * effort.run_seconds
    met = [thermal_state(adb)]

    def once(place: int, name: str, *more: str) -> ToolOutput:
        sleep(effort.cool_down)
        output, text = tool.run(models[place], *flags, *more, seconds=seconds)
        if keep is not None:
            write_bytes(keep / f"{title.replace(' ', '_')}_{name}.txt", text.encode())
        return output

    profiled = [
        once(place, f"profile_of_file_{place + 1}", "--enable_op_profiling=true")
        for place in progress(f"Operators, {title}", range(len(files)))
    ]
    # The first file once more: how far it is from itself is chance.
    in_turn = [0, *range(len(files))]
    taken: list[list[ToolOutput]] = [[] for _ in in_turn]
    rng = np.random.default_rng(0)
    for turn in progress(f"Timing, {title}", range(effort.rounds)):
        met.append(_cooled(adb, effort))
        for slot in rng.permutation(len(in_turn)).tolist():
            name = f"round_{turn + 1}_file_{in_turn[slot] + 1}{'_again' * (slot == 0)}"
            taken[slot].append(once(in_turn[slot], name))
    met.append(thermal_state(adb))
    comparison = compare(
        [str(file) for file in files],
        [file.stat().st_size for file in files],
        threads=threads,
        blocks=np.asarray([[[run.typical_ms] for run in runs] for runs in taken]),
        times=[_summary(runs) for runs in taken[1:]],
        first=[
            [
                FirstRun(
                    run.load_ms, run.first_ms, run.peak_memory_mb, _delegation(file, operators)
                )
                for run in runs
            ]
            for file, runs, operators in zip(files, taken[1:], profiled, strict=True)
        ],
    )
    return DeviceComparison(
        comparison, tuple(run.operators for run in profiled), tuple(dict.fromkeys(met))
    )


def _cooled(adb: Adb, effort: DeviceEffort) -> str:
    """Wait for a hot device, and return its thermal state then."""
    pause, waited = 5.0, 0.0
    state = thermal_state(adb)
    while state not in COOL and waited < effort.patience:
        sleep(pause)
        waited += pause
        state = thermal_state(adb)
    return state


def _summary(runs: Sequence[ToolOutput]) -> dict[str, float | None]:
    p95 = [run.p95_ms for run in runs if run.p95_ms is not None]
    return {
        "median_ms": float(np.median([run.typical_ms for run in runs])),
        "p90_ms": None,
        "p95_ms": float(np.median(p95)) if p95 else None,
    }


def _delegation(file: Path, profiled: ToolOutput) -> Delegation | None:
    if not profiled.operators:
        return None
    graph = schema.Model.GetRootAs(file.read_bytes(), 0).Subgraphs(0)
    left = dict(profiled.operators_left())
    return Delegation(max(graph.OperatorsLength() - sum(left.values()), 0), left)
