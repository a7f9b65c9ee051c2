"""ACIQ: where to clip a bell-shaped tensor so that clipping and rounding together err least.

Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment" (NeurIPS 2019, arXiv 1810.05723), section 3.

A tensor that passed a ReLU is a density on [0, inf), clipped to [0, alpha]. Its step is half that
of [-alpha, alpha] and the share of its values beyond alpha is the same, so that its error, and its
optimum, at M bits are those of the two-sided density at M + 1 bits. The scale of the density, `b`
or `sigma`, is then that of the positive values alone, taken about zero.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tflite_ptq4.errors import ConfigError

_MAX_BITS = 16
_HALVINGS = 54  # of 10.0, until nothing is left to halve


def laplace_error(alpha: ArrayLike, b: ArrayLike, bits: ArrayLike) -> np.ndarray:
    """Return the expected squared error of a Laplace density clipped at +-alpha.

        2 b^2 exp(-alpha / b) + alpha^2 / (3 * 4^bits)

    Args:
        alpha: clipping value >= 0, in units of the tensor.
        b: scale of the density, E|X - E X|, >= 0, in the same units.
        bits: bit width; 2^bits levels share [-alpha, alpha]. For [0, alpha], pass one bit more.

    Returns:
        float64 array of the common shape, in squared units of the tensor.

    Source: arXiv 1810.05723, section 3.
    """
    alpha, b = np.asarray(alpha, np.float64), np.asarray(b, np.float64)
    clipping = 2.0 * b**2 * np.exp(-_in_units_of(alpha, b))
    return clipping + rounding_error(alpha, bits)


def gaussian_error(alpha: ArrayLike, sigma: ArrayLike, bits: ArrayLike) -> np.ndarray:
    """Return the expected squared error of a Gaussian density clipped at +-alpha.

        (alpha^2 + sigma^2) erfc(alpha / (sigma sqrt 2))
        - alpha sigma sqrt(2 / pi) exp(-alpha^2 / (2 sigma^2)) + alpha^2 / (3 * 4^bits)

    Args:
        alpha: clipping value >= 0, in units of the tensor.
        sigma: standard deviation >= 0, in the same units.
        bits: bit width; 2^bits levels share [-alpha, alpha]. For [0, alpha], pass one bit more.

    Returns:
        float64 array of the common shape, in squared units of the tensor.

    Source: arXiv 1810.05723, section 3.
    """
    alpha, sigma = np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)
    ratio = _in_units_of(alpha, sigma)
    beyond = (alpha**2 + sigma**2) * special.erfc(ratio / math.sqrt(2.0))
    edge = alpha * sigma * math.sqrt(2.0 / math.pi) * np.exp(-(ratio**2) / 2.0)
    return beyond - edge + rounding_error(alpha, bits)


def rounding_error(alpha: ArrayLike, bits: ArrayLike) -> np.ndarray:
    """Return the squared error of rounding inside the clip alone: step^2 / 12.

        alpha^2 / (3 * 4^bits),  the step being 2 alpha / 2^bits

    At 0 bits this is alpha^2 / 3, the variance of a uniform density on [-alpha, alpha], which is
    the error of replacing the tensor by its mean.

    Args:
        alpha: clipping value >= 0, in units of the tensor.
        bits: bit width >= 0.

    Returns:
        float64 array of the common shape, in squared units of the tensor.

    Source: arXiv 1810.05723, section 3.
    """
    return np.asarray(alpha, np.float64) ** 2 / (3.0 * 4.0 ** np.asarray(bits, np.float64))


@functools.cache
def laplace_ratio(bits: int, one_sided: bool = False) -> float:
    """Return alpha / b where `laplace_error` is least.

        alpha / b = W(3 * 4^M),  W being Lambert's function, M = bits (+ 1 if one-sided)

    The derivative vanishes where (alpha / b) exp(alpha / b) = 3 * 4^M.

    Args:
        bits: bit width, 1 to 16.
        one_sided: whether the range is [0, alpha], as after a ReLU.

    Raises:
        ConfigError: the bit width is out of range.

    Source: arXiv 1810.05723, section 3.
    """
    return float(special.lambertw(3.0 * 4.0 ** _two_sided_bits(bits, one_sided)).real)


@functools.cache
def gaussian_ratio(bits: int, one_sided: bool = False) -> float:
    """Return alpha / sigma where `gaussian_error` is least.

    With a = alpha / sigma, half the derivative is

        a erfc(a / sqrt 2) - sqrt(2 / pi) exp(-a^2 / 2) + a / (3 * 4^M)

    which grows with a from below zero to above it; its root is found by halving.

    Args:
        bits: bit width, 1 to 16.
        one_sided: whether the range is [0, alpha], as after a ReLU.

    Raises:
        ConfigError: the bit width is out of range.

    Source: arXiv 1810.05723, section 3.
    """
    levels_squared = 4.0 ** _two_sided_bits(bits, one_sided)

    def slope(a: float) -> float:
        density_at_edge = math.sqrt(2.0 / math.pi) * math.exp(-(a**2) / 2.0)
        return a * math.erfc(a / math.sqrt(2.0)) - density_at_edge + a / (3.0 * levels_squared)

    # At 17 bits, the widest asked for, the root is below 7. Importing scipy's solvers takes a third
    # of a second, in every command.
    low, high = 0.0, 10.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return high


def _two_sided_bits(bits: int, one_sided: bool) -> int:
    if not 1 <= bits <= _MAX_BITS or bits != int(bits):
        raise ConfigError(
            f"`bits` must be an integer from 1 to {_MAX_BITS} to have an optimal clip. "
            f"Received: bits={bits!r}. Choose a bit width in that range."
        )
    return int(bits) + int(one_sided)


def _in_units_of(alpha: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return alpha / spread; infinite where the spread is zero, as nothing then lies beyond."""
    alpha, spread = np.broadcast_arrays(alpha, spread)
    return np.divide(alpha, spread, out=np.full(alpha.shape, np.inf), where=spread > 0)
