"""Two 4-bit integers in a byte, as an INT4 tensor of a TFLite file holds them.

Element 2i lies in the low nibble of byte i and element 2i + 1 in the high one, in two's complement:
[1, 2, -1] is 0x21, 0x0F. After an odd number of elements, the last high nibble is zero.
"""

from __future__ import annotations

import numpy as np

from tflite_ptq4.errors import FileFormatError, TargetError
from tflite_ptq4.numerics.grid import IntegerGrid

_INT4 = IntegerGrid(4, signed=True)


def pack_int4(q: np.ndarray) -> np.ndarray:
    """Return the integers two to a byte, low nibble first.

    Args:
        q: integers in [-8, 7], of any shape, taken in C order.

    Returns:
        uint8[ceil(q.size / 2)].

    Raises:
        TargetError: the array is not of an integer type, or an integer is out of range.
    """
    q = np.asarray(q)
    if q.dtype.kind not in "iu":
        raise TargetError(
            "An INT4 tensor must be packed from integers. "
            f"Received: an array of {q.dtype}. Quantize it first."
        )
    if q.size and (q.min() < _INT4.qmin or q.max() > _INT4.qmax):
        raise TargetError(
            f"An INT4 tensor must hold integers in [{_INT4.qmin}, {_INT4.qmax}]. "
            f"Received: integers from {q.min()} to {q.max()}. "
            "Quantize the tensor to 4 bits, or store it as INT8."
        )
    # The cast keeps the two's complement: the low nibble of int8 -1 (0xFF) is 0xF.
    nibbles = np.zeros((q.size + 1) // 2 * 2, np.uint8)
    nibbles[: q.size] = q.astype(np.int8).ravel().view(np.uint8) & 0x0F
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpack_int4(packed: np.ndarray, count: int) -> np.ndarray:
    """Return the integers that `pack_int4` packed.

    Args:
        packed: uint8 array, low nibble first.
        count: number of integers; it fills all the bytes, but for one nibble if it is odd.

    Returns:
        int8[count], in [-8, 7].

    Raises:
        FileFormatError: the array is not uint8, or has not the number of bytes that `count` needs.
    """
    packed = np.asarray(packed)
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size != (count + 1) // 2:
        raise FileFormatError(
            f"{count} INT4 integers must lie in {(count + 1) // 2} bytes of a flat uint8 array. "
            f"Received: {packed.dtype} of shape {packed.shape}. "
            "Check the tensor's shape and buffer; the file may be cut short."
        )
    nibbles = np.empty(2 * packed.size, np.int8)
    # Shifting a signed byte right repeats its sign bit.
    nibbles[0::2] = (packed << 4).view(np.int8) >> 4
    nibbles[1::2] = packed.view(np.int8) >> 4
    return nibbles[:count]
