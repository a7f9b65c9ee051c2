"""What a user may choose of a benchmark: with whose kernels, and how long to measure."""

from __future__ import annotations

from dataclasses import dataclass

DELEGATES = ("xnnpack", "none")  # LiteRT's default, or LiteRT's own kernels alone


@dataclass(frozen=True)
class HostEffort:
    """How long to measure on this machine.

    Attributes:
        processes: that measure one after the other, at least 2; each has a ratio of its own.
        rounds: in each of them.
        block_ms: how long a file runs on end where files take turns in blocks, in milliseconds.
        first_runs: processes that load and run a file for the first time.
    """

    processes: int = 6
    rounds: int = 10
    block_ms: float = 40.0
    first_runs: int = 3


@dataclass(frozen=True)
class DeviceEffort:
    """How long to measure on a device.

    Attributes:
        rounds: in which each file runs once, in a process of its own; at least 2.
        cool_down: seconds of rest before each run.
        run_seconds: how long a run lasts at least, after a warm-up of half of it.
        patience: seconds for which a hot device is waited for before a round.
    """

    rounds: int = 8
    cool_down: float = 1.0
    run_seconds: float = 1.0
    patience: float = 60.0
