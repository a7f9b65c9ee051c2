"""Refit of a kernel, before rounding, to the input that its layer reads after quantization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.second_order_rounding import checked_kernel, damped_moment

# From hardly any to nearly nothing left to fit: half a decade apart, as the error is flat around
# the best.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)


def ridge_refit(
    weight: np.ndarray,
    second_moment_qq: np.ndarray,
    cross_moment_qy: np.ndarray,
    ridge: float = 0.5,
) -> np.ndarray:
    """Return the kernel that maps the quantized input nearest to the float layer's output.

        argmin over W of E|x_q^T W - y|^2 + lambda |W - W_f|^2,   y = x_f^T W_f
            = W_f + (S_qq + lambda I)^-1 (S_qy - S_qq W_f),       lambda = ridge * mean(diag S_qq)

    It makes up for errors of the layers before, as far as the input that is left can tell them. The
    ridge holds the kernel near the float one, which is known to do well on unseen images.

    Args:
        weight: float[G, n, C], the float kernel W_f: n inputs and C outputs in each of G groups.
        second_moment_qq: float[G, n, n], S_qq = E[x_q x_q^T] of the centred quantized input.
        cross_moment_qy: float[G, n, C], S_qy = E[x_q y^T], y the float layer's centred output.
        ridge: fraction of the mean diagonal; infinite, it leaves `weight` as it is.

    Returns:
        float64[G, n, C]. The weights of an input that never varies stay as they are.

    Raises:
        ConfigError: the ridge is negative or NaN.
        DataError: shapes that do not fit, values that are not finite, or a ridge of 0 and S_qq
            exactly singular.
    """
    if ridge == np.inf:
        return checked_kernel(weight, damped_moment(second_moment_qq, 0.0))
    regularised = damped_moment(second_moment_qq, ridge)
    weight = checked_kernel(weight, regularised)
    try:
        return weight + _solved(
            regularised, _unexplained(weight, second_moment_qq, cross_moment_qy)
        )
    except np.linalg.LinAlgError as error:
        raise DataError(
            "`second_moment_qq` must be invertible if there is no ridge. "
            f"Received: a singular group, ridge={ridge!r}. Set `ridge` above 0."
        ) from error


def held_out_ridge(
    weight: np.ndarray,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    ridges: Sequence[float] = RIDGES,
) -> float:
    """Return the ridge whose refit to one part of the images errs least on the other parts.

        sum over parts p, p' != p of  tr(D^T S' D) - 2 tr(D^T (S_qy' - S_qq' W_f)),  D = W_p - W_f

    That is the change of E|x_q^T W - y|^2 on part p' by the refit to p. How much a refit can learn
    from a few dozen images, and how much of what it learns is chance, differs by a factor of a
    hundred between the first layers of a network, which see thousands of positions, and the last.

    Args:
        weight: float[G, n, C], as in `ridge_refit`.
        parts: for each part of the images the moments S_qq and S_qy of `ridge_refit`.
        ridges: the candidates.

    Returns:
        One of `ridges`, or infinity where no refit does better than the float kernel.

    Raises:
        ConfigError: as in `ridge_refit`.
        DataError: as in `ridge_refit`.

    Source: cross-validation, Stone, "Cross-validatory choice and assessment of statistical
    predictions", 1974; its use here is ours.
    """
    changes = {np.inf: 0.0}
    # float32 is enough to tell the candidates apart, and takes half the time and memory.
    missing = [_unexplained(weight, *part).astype(np.float32) for part in parts]
    moments = [second_moment.astype(np.float32, copy=False) for second_moment, _ in parts]
    for ridge in ridges:
        changes[ridge] = 0.0
        for part in range(len(parts)):
            change = _solved(damped_moment(parts[part][0], ridge).astype(np.float32), missing[part])
            for other in set(range(len(parts))) - {part}:
                changes[ridge] += float(np.sum(change * (moments[other] @ change)))
                changes[ridge] -= 2.0 * float(np.sum(change * missing[other]))
    return min(changes, key=changes.__getitem__)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution for each group of a positive definite matrix [G, n, n] and [G, n, C]."""
    if len(matrix) > 1:
        return np.linalg.solve(matrix, right)
    return cho_solve(cho_factor(matrix[0], lower=True), right[0])[None]


def _unexplained(
    weight: np.ndarray, second_moment_qq: np.ndarray, cross_moment_qy: np.ndarray
) -> np.ndarray:
    """S_qy - S_qq W_f, zero for an input that never varies."""
    cross_moment = np.asarray(cross_moment_qy, np.float64)
    if cross_moment.shape != weight.shape or not np.isfinite(cross_moment).all():
        raise DataError(
            f"`cross_moment_qy` must be finite, of the shape {weight.shape} of the kernel. "
            f"Received: shape {cross_moment.shape}. "
            "Accumulate both moments over the same positions of the same images."
        )
    unexplained = cross_moment - second_moment_qq @ weight
    unexplained[np.diagonal(second_moment_qq, axis1=1, axis2=2) == 0] = 0.0
    return unexplained
