"""Scales at which no value of a sigmoid, say, or of a mean lies near a tie, where runtimes differ.

Runtimes compute the 256 values of a sigmoid in float32, each by an exponential of its own, and
multiply the sum of a mean by a factor that each rounds in its own way; where a value lies within
their error of half a step, one rounds it up and another down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _elu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 0.0, np.expm1(x), x)


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * ndtr(x)


def _approximate_gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * expit(np.sqrt(8.0 / np.pi) * (x + 0.044715 * x**3))


# For each kind of operator the functions that it may be.
FUNCTIONS: Mapping[str, tuple[Function, ...]] = {
    "sigmoid": (expit,),
    "tanh": (np.tanh,),
    "elu": (_elu,),
    "gelu": (_gelu, _approximate_gelu),
}
LEAST_DISTANCE = 2.0e-4  # in steps of the output; float32 has about 2e-5 of error there
_LARGEST_DENOMINATOR = 1023  # so that a value is 4.9e-4 from a tie
_STEP = 2.0**-12
_TRIES = 64


def tie_free_scale(
    scale: float, levels: NDArray[np.int64], kinds: Sequence[str], output_steps: Sequence[float]
) -> float:
    """Widen a scale until no value of the tables read through it is near a tie.

        least k >= 0 with |frac(f(s (1 + k 2^-12) q) / t) - 1/2| >= 2e-4 for all q, f and t

    Args:
        scale: of the operators' input.
        levels: int64 [n], the integers q that the input can hold, zero standing for 0.0.
        kinds: the operators that read it, keys of `FUNCTIONS`.
        output_steps: the scale of each one's output.

    Returns:
        The scale, a float32 value. In the rare case that 64 tries do not do, the best of them.
    """
    tries = scale * (1.0 + _STEP * np.arange(_TRIES))
    tries = tries.astype(np.float32).astype(np.float64)
    distance = np.full(_TRIES, np.inf)
    for kind, step in zip(kinds, output_steps, strict=True):
        for function in FUNCTIONS[kind]:
            value = function(tries[:, None] * levels) / step
            distance = np.minimum(distance, np.abs(value - np.floor(value) - 0.5).min(axis=1))
    enough = np.flatnonzero(distance >= LEAST_DISTANCE)
    return float(tries[enough[0] if len(enough) else np.argmax(distance)])


def tie_free_mean_scale(scale: float, input_scale: float, count: int) -> float:
    """Widen the output scale of a mean a little, until no sum of integers comes near a tie.

        (sum of q) s_in / (count s_out) = (sum of q) p / m,  m odd

    which is at least 1 / (2 m) away from every half.

    Args:
        scale: s_out, of the mean.
        input_scale: s_in.
        count: numbers that are averaged.

    Returns:
        The scale, a float32 value, of those with the greatest odd m the one that widens least.
    """
    ratio = input_scale / (count * scale)
    largest = max(_LARGEST_DENOMINATOR, 2 * math.ceil(1.0 / ratio) + 1)
    denominators = np.arange(largest // 4 * 2 + 1, largest + 1, 2)
    numerators = np.floor(denominators * ratio * (1.0 + 1.0e-9))
    best = int(np.argmax(numerators / denominators))
    widened = input_scale * denominators[best] / (count * numerators[best])
    return float(np.float32(widened))
