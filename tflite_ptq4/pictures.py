"""Small pictures of a plan: a tensor's histogram with its clip drawn in, and bits per channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.stats.histogram import linear_counts
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

BARS = 96

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 620, 34, 212
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (208, 208, 208)
_BAR, _CLIPPED, _CLIP = (96, 144, 196), (232, 168, 96), (192, 32, 32)


def histogram_bars(statistics: TensorStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The histogram of a whole tensor in bars of one width, from its least value to its greatest.

    Args:
        statistics: of its channels, which are taken together.

    Returns:
        Edges float64 [BARS + 1] and counts float64 [BARS]. A tensor of one value has a range of one
        around it.
    """
    merged = statistics.per_tensor()
    low, high = float(merged.minimum[0]), float(merged.maximum[0])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BARS + 1)
    return edges, linear_counts(merged.histogram[0], edges)


def clip_picture(statistics: TensorStatistics, tensor: TensorPlan) -> Image.Image:
    """The histogram of a tensor, with a line at either end of its clip, or of each channel's.

    Bars are as high as the logarithm of their count; what lies outside of the widest clip has
    another colour.

    Args:
        statistics: of the tensor.
        tensor: its plan.
    """
    edges, counts = histogram_bars(statistics)
    low, high = float(tensor.low.min()), float(tensor.high.max())
    span = min(edges[0], low), max(edges[-1], high)
    picture = _Plot(
        f"{tensor.name}: {_bits(tensor.bits)}, clip {low:.4g} to {high:.4g} "
        f"({', '.join(dict.fromkeys(tensor.method))})",
        span,
        f"{counts.max():,.0f} values, logarithmic",
    )
    heights = np.log1p(counts) / max(np.log1p(counts.max()), 1.0)
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        middle = (left + right) / 2
        picture.bar(left, right, height, _BAR if low <= middle <= high else _CLIPPED)
    for end in np.unique([tensor.low, tensor.high]):
        picture.line(end, _CLIP)
    return picture.image


def bits_picture(name: str, bits: NDArray[np.int64]) -> Image.Image:
    """The bits of each channel as bars, in the order of the channels.

    Args:
        name: of the layer or tensor, for the title.
        bits: int64 [C].
    """
    most = max(8, int(bits.max()))
    picture = _Plot(f"{name}: {_bits(bits)}", (0, len(bits)), f"{most} bits", "channel")
    for channel, width in enumerate(bits):
        picture.bar(channel, channel + 1, width / most, _BAR)
    return picture.image


def _bits(bits: Sequence[int]) -> str:
    least, most = min(bits), max(bits)
    if least == most:
        return f"{least} bits"
    return f"{least} to {most} bits, {np.mean(bits):.2f} on average"


class _Plot:
    """Axes with a title, a range across and a label at the top."""

    def __init__(
        self, title: str, span: tuple[float, float], top: str, across: str = "value"
    ) -> None:
        self.image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._low, self._high = span
        self._text((_LEFT, 8), title)
        self._text((_LEFT, _TOP - 12), top, anchor_right=False)
        self._draw.line([(_LEFT, _TOP), (_RIGHT, _TOP)], _FAINT)
        self._draw.line([(_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], _INK)
        self._text((_LEFT, _BOTTOM + 6), f"{span[0]:.4g}")
        self._text((_RIGHT, _BOTTOM + 6), f"{span[1]:.4g}", anchor_right=True)
        self._text(((_LEFT + _RIGHT) // 2, _BOTTOM + 6), across)

    def bar(self, left: float, right: float, height: float, colour: tuple[int, int, int]) -> None:
        """A bar between two values, its height in [0, 1]."""
        if height > 0:
            top = _BOTTOM - max(round(height * (_BOTTOM - _TOP)), 1)
            corners = [self._x(left), top, max(self._x(right) - 1, self._x(left)), _BOTTOM - 1]
            self._draw.rectangle(corners, colour)

    def line(self, value: float, colour: tuple[int, int, int]) -> None:
        """A line from top to bottom at a value."""
        self._draw.line([(self._x(value), _TOP), (self._x(value), _BOTTOM)], colour, width=2)

    def _x(self, value: float) -> int:
        share = (value - self._low) / (self._high - self._low)
        return round(_LEFT + share * (_RIGHT - _LEFT))

    def _text(self, place: Iterable[int], text: str, *, anchor_right: bool = False) -> None:
        x, y = place
        # The font that Pillow brings along knows Latin letters only.
        plain = text.encode("latin-1", "replace").decode("latin-1")
        if anchor_right:
            x -= round(self._draw.textlength(plain))
        self._draw.text((x, y), plain, fill=_INK)
