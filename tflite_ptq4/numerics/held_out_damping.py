"""The damping of second-order rounding that errs least on images that it was not rounded by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tflite_ptq4.numerics.second_order_rounding import output_error, second_order_rounding

DAMPINGS = (0.01, 0.1, 1.0)  # a decade apart: the error is flat around the best


def held_out_damping(
    weight: np.ndarray,
    parts: Sequence[np.ndarray],
    scale: np.ndarray,
    bits: int | np.ndarray,
    dampings: Sequence[float] = DAMPINGS,
) -> float:
    """Return the damping whose rounding by one part of the images errs least on the other parts.

        sum over parts p, p' != p of  tr(E^T H' E),  E = W - s q(H_p, damping)

    Rounding carries errors along the correlations of the input. Those of a few dozen images hold
    for others too in the first layers of a network, which see thousands of positions, and much less
    in the last ones.

    Args:
        weight: float[G, n, C], the kernel.
        parts: for each part of the images the second moment float[G, n, n] of the centred input.
        scale: float[G, C], step of each output channel, > 0.
        bits: bit width >= 2, or int[G, C].
        dampings: the candidates.

    Returns:
        One of `dampings`; of equally good ones the first.

    Raises:
        ConfigError: as in `second_order_rounding`.
        DataError: as in `second_order_rounding`.

    Source: cross-validation, as for the ridge of the refit.
    """
    errors = dict.fromkeys(dampings, 0.0)
    for damping in dampings:
        for part, moment in enumerate(parts):
            missed = scale[:, None, :] * second_order_rounding(weight, moment, scale, bits, damping)
            np.subtract(weight, missed, out=missed)
            for other, held_out in enumerate(parts):
                if other != part:
                    errors[damping] += float(output_error(missed, held_out).sum())
            del missed  # of a wide layer it takes much memory
    return min(errors, key=errors.__getitem__)
