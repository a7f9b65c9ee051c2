"""How many bits a weight tensor really uses, whatever type it is stored in."""

from __future__ import annotations

import numpy as np

FLOAT_BITS = 32
_MOST_STEPS = 255
_FEWEST_VALUES = 8
_GRID_TOLERANCE = 1e-3


def integer_bits(q: np.ndarray) -> np.ndarray:
    """Return the least b with `-2^(b-1) <= q <= 2^(b-1) - 1` for each row; 0 for a row of zeros.

    Args:
        q: integer array [channels, n], the zero point already subtracted.

    Returns:
        int64 [channels].
    """
    # Folds -2^k onto 2^k - 1, the positive integer that needs as many bits.
    magnitude = np.where(q < 0, -(q.astype(np.int64) + 1), q).max(axis=1, initial=0)
    bits = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64) + 1
    return np.where((q != 0).any(axis=1), bits, 0)


def float_grid_bits(weights: np.ndarray) -> np.ndarray:
    """Return `ceil(log2(levels))` for each row that lies on a grid of at most 256 equal steps.

    A row lies on a grid of k steps if every `(w - min) * k / (max - min)` is whole; the smallest
    such k counts, levels = k + 1. The grid may be shifted, as by a correction of the mean.

    Args:
        weights: float array [channels, n].

    Returns:
        int64 [channels]: 0 for a constant row; `FLOAT_BITS` for a row on no such grid, and for a
        row of fewer than 8 values, which fits some grid by chance.
    """
    weights = np.asarray(weights, np.float64)
    bits = np.full(len(weights), FLOAT_BITS, np.int64)
    if weights.shape[1] == 0:
        return bits
    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    bits[(low == high)[:, 0]] = 0
    if weights.shape[1] < _FEWEST_VALUES:
        return bits
    open_rows = np.flatnonzero(low < high)
    for steps in range(1, _MOST_STEPS + 1):
        # A few values rule out nearly every wrong grid, so that long rows are seldom read.
        candidates = open_rows[_on_grid(weights[open_rows, :16], low, high, open_rows, steps)]
        found = candidates[_on_grid(weights[candidates], low, high, candidates, steps)]
        bits[found] = int(steps).bit_length()
        open_rows = np.setdiff1d(open_rows, found, assume_unique=True)
    return bits


def _on_grid(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, rows: np.ndarray, steps: int
) -> np.ndarray:
    position = (values - low[rows]) * (steps / (high[rows] - low[rows]))
    return (np.abs(position - np.rint(position)) < _GRID_TOLERANCE).all(axis=1)
