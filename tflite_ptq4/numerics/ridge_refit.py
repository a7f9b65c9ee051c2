"""Refit of a kernel, before rounding, to the input that its layer reads after quantization."""

from __future__ import annotations

import numpy as np

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.second_order_rounding import checked_kernel, damped_moment


def ridge_refit(
    weight: np.ndarray,
    second_moment_qq: np.ndarray,
    cross_moment_qf: np.ndarray,
    ridge: float = 0.5,
) -> np.ndarray:
    """Return the kernel that maps the quantized input nearest to the float layer's output.

        argmin over W of E|x_q^T W - x_f^T W_f|^2 + lambda |W - W_f|^2
            = W_f + (S_qq + lambda I)^-1 (S_qf - S_qq) W_f,   lambda = ridge * mean(diag S_qq)

    It makes up for errors of the layers before, as far as the input that is left can tell them. The
    ridge holds the kernel near the float one, which is known to do well on unseen images.

    Args:
        weight: float[G, n, C], the float kernel W_f: n inputs and C outputs in each of G groups.
        second_moment_qq: float[G, n, n], S_qq = E[x_q x_q^T] of the centred quantized input.
        cross_moment_qf: float[G, n, n], S_qf = E[x_q x_f^T]; x_f is the centred float input.
        ridge: fraction of the mean diagonal; infinitely large would return `weight`.

    Returns:
        float64[G, n, C]. The weights of an input that never varies stay as they are.

    Raises:
        ConfigError: the ridge is negative or not finite.
        DataError: shapes that do not fit, values that are not finite, or a ridge of 0 and S_qq
            exactly singular.
    """
    regularised = damped_moment(second_moment_qq, ridge)
    weight = checked_kernel(weight, regularised)
    cross_moment = np.asarray(cross_moment_qf, np.float64)
    if cross_moment.shape != regularised.shape or not np.isfinite(cross_moment).all():
        raise DataError(
            f"`cross_moment_qf` must be finite, of the shape {regularised.shape} of the second "
            f"moment. Received: shape {cross_moment.shape}. "
            "Accumulate both over the same positions of the same images."
        )
    unexplained = (cross_moment - second_moment_qq) @ weight
    never_varies = np.diagonal(second_moment_qq, axis1=1, axis2=2) == 0
    unexplained[never_varies] = 0.0
    try:
        return weight + np.linalg.solve(regularised, unexplained)
    except np.linalg.LinAlgError as error:
        raise DataError(
            "`second_moment_qq` must be invertible if there is no ridge. "
            f"Received: a singular group, ridge={ridge!r}. Set `ridge` above 0."
        ) from error
