"""Choices of a config that only float arithmetic can hold, and the way out of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FloatOnly:
    """Why no integer target can hold a config.

    Attributes:
        must: what an integer target asks.
        received: what the config asks in its place.
        change: what to set, to have integers.
    """

    must: str
    received: str
    change: str


SCALE_PER_CHANNEL = FloatOnly(
    must="must have one scale per activation tensor",
    received="activations clipped per channel",
    change="activation_granularity: per_tensor and activation_bit_allocation: none",
)
WEIGHTS_OFF_THE_GRID = FloatOnly(
    must="must have weights on the integer grid",
    received="mean_correction: weights, the paper's form, which leaves the grid",
    change="mean_correction: bias",
)
SUMS_IN_FLOAT = FloatOnly(
    must="must have integers between its layers",
    received="quantized_tensors: layer_inputs, with which sums stay in float",
    change="quantized_tensors: all",
)
