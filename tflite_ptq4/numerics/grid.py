"""The integers that a quantized number can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tflite_ptq4.errors import ConfigError

_MAX_SIGNED_BITS = 32


@dataclass(frozen=True)
class IntegerGrid:
    """All integers from qmin to qmax.

        unsigned:              [0, 2^bits - 1]
        signed:                [-2^(bits-1), 2^(bits-1) - 1]
        signed, narrow range:  [-(2^(bits-1) - 1), 2^(bits-1) - 1]

    Attributes:
        bits: one bit width for the tensor, or one per channel of its last axis (kept as a tuple).
        signed: whether negative integers belong to the grid.
        narrow_range: whether the lowest integer is left out, which makes a signed grid symmetric.

    Raises:
        ConfigError: the bit width is not an integer, the integers do not fit int32, or the narrow
            range is asked of an unsigned grid or of 1 bit, where zero alone would be left.
    """

    bits: int | Sequence[int]
    signed: bool = False
    narrow_range: bool = False

    def __post_init__(self) -> None:
        """Check the fields, and bring `bits` to an `int` or to a tuple of them."""
        bits = np.asarray(self.bits)
        if bits.dtype.kind not in "iu" or bits.ndim > 1:
            raise ConfigError(
                "`bits` must be an integer, or one integer per channel. "
                f"Received: bits={self.bits!r}. Round it, or allocate bits per channel first."
            )
        if self.narrow_range and not self.signed:
            raise ConfigError(
                "`narrow_range` must go with a signed grid: an unsigned one has no lowest negative "
                f"integer to leave out. Received: {self.bits!r} bits, signed=False. "
                "Set signed=True or narrow_range=False."
            )
        lowest = 2 if self.narrow_range else 1
        highest = _MAX_SIGNED_BITS if self.signed else _MAX_SIGNED_BITS - 1
        if np.any(bits < lowest) or np.any(bits > highest):
            kind = "signed" if self.signed else "unsigned"
            kind += ", narrow-range" if self.narrow_range else ""
            raise ConfigError(
                f"`bits` must be from {lowest} to {highest} on a {kind} grid. "
                f"Received: bits={self.bits!r}. Choose a bit width in that range; "
                "a channel of 0 bits has no grid and is to be replaced by its mean."
            )
        normalized = int(bits) if bits.ndim == 0 else tuple(int(bit) for bit in bits)
        object.__setattr__(self, "bits", normalized)

    @property
    def qmin(self) -> int | np.ndarray:
        """The lowest integer; int64[C] when `bits` is per channel."""
        if not self.signed:
            return self.qmax - self.qmax
        return -self.qmax if self.narrow_range else -self.qmax - 1

    @property
    def qmax(self) -> int | np.ndarray:
        """The highest integer; int64[C] when `bits` is per channel."""
        magnitude_bits = np.asarray(self.bits, np.int64) - int(self.signed)
        highest = 2**magnitude_bits - 1
        return int(highest) if highest.ndim == 0 else highest

    @property
    def levels(self) -> int | np.ndarray:
        """The number of integers, qmax - qmin + 1; int64[C] when `bits` is per channel."""
        return self.qmax - self.qmin + 1
