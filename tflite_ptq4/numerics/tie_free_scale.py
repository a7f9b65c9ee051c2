"""Input scales at which no value of a sigmoid, say, lies near a tie, where runtimes differ.

Runtimes compute the 256 values of such an operator in float32, each by an exponential of its own;
where a value lies within their error of half a step, one rounds it up and another down.
"""

from __future__ import annotations

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
