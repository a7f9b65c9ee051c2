"""Factor and shift per output channel that bring a quantized layer's output to the float one's.

Neither costs anything in the file nor leaves the grid: the factor multiplies the scale of the
channel's weights, and the shift is added to its bias. All arrays are per channel, [C], and describe
the layer's output before the activation function, over all images and positions.
"""

from __future__ import annotations

import numpy as np

from tflite_ptq4.errors import ConfigError, DataError

# A constant channel, computed in float32, shows a standard deviation of about 1e-7 of its mean.
_CONSTANT_TOLERANCE = 1e-6


def match_channels(
    float_mean: np.ndarray,
    float_std: np.ndarray,
    quantized_mean: np.ndarray,
    quantized_std: np.ndarray,
    *,
    limit: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and shift that give the output the float channel's mean and spread.

        factor = std_f / std_q,  shift = mean_f - factor * mean_q

    Then factor * y_q + shift has mean mean_f and standard deviation std_f.

    Args:
        float_mean: float[C], mean of the float output y_f.
        float_std: float[C], its standard deviation.
        quantized_mean: float[C], mean of the quantized output y_q.
        quantized_std: float[C], its standard deviation.
        limit: the factor is kept in [1/limit, limit]; the mean is matched nevertheless.

    Returns:
        factor and shift, both float64[C]. The factor is 1.0 where either output is constant.

    Raises:
        ConfigError: the limit is below 1 or not finite.
        DataError: arrays of different shapes, values that are not finite, or a negative std.
    """
    mean_f, std_f, mean_q, std_q = _channels(
        float_mean=float_mean,
        float_std=float_std,
        quantized_mean=quantized_mean,
        quantized_std=quantized_std,
    )
    if not 1 <= limit < np.inf:
        raise ConfigError(
            f"`limit` must be finite and at least 1. Received: {limit!r}. "
            "2.0 keeps each factor from a half to two; 1.0 matches the mean alone."
        )
    both_vary = _varies(mean_f, std_f) & _varies(mean_q, std_q)
    factor = np.divide(std_f, std_q, out=np.ones_like(std_f), where=both_vary)
    factor = np.clip(factor, 1 / limit, limit)
    return factor, mean_f - factor * mean_q


def _varies(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return std > _CONSTANT_TOLERANCE * np.abs(mean)


def _channels(**arrays: np.ndarray) -> list[np.ndarray]:
    checked = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
    shapes = {name: values.shape for name, values in checked.items()}
    if len(set(shapes.values())) > 1 or any(values.ndim != 1 for values in checked.values()):
        raise DataError(
            f"The statistics must all be [C], one number per channel. Received: {shapes}. "
            "Reduce both outputs over images and positions."
        )
    for name, values in checked.items():
        if not np.isfinite(values).all() or (name.endswith("_std") and np.any(values < 0)):
            raise DataError(
                f"`{name}` must be finite, and a standard deviation not negative. "
                f"Received: {values!r}. Look for NaN in the layer's output."
            )
    return list(checked.values())
