"""The plots of the report as SVG: pure functions of numbers, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from tflite_ptq4.distributions import Distribution
from tflite_ptq4.report.values import LayerRow

WIDTH = 480.0
LEFT, RIGHT = 34.0, 12.0
GRID_BITS = 8


def distribution_plot(values: Distribution, label: str) -> str:
    """A histogram with the clip and the fitted density.

    Args:
        values: what to draw.
        label: what it shows, for those who do not see it.
    """
    width, height, base = 300.0, 112.0, 92.0
    edges = np.linspace(values.start, values.stop, len(values.shares) + 1)
    density = np.array(values.shares) / (edges[1] - edges[0])
    curve = np.linspace(values.start, values.stop, 97)
    prior = None if values.prior is None else values.prior.density(curve)
    if values.prior is not None and values.prior.one_sided:
        curve, prior = curve[curve >= 0], prior[curve >= 0]
    # A spike in one bin must not flatten all the others.
    tops = np.sort(density)[-2:]
    top = max(min(tops[-1], 1.6 * tops[0]), 1e-30)
    if prior is not None:
        top = max(top, min(float(prior.max()), 2.0 * top))

    def x(value: float) -> float:
        return width * (value - values.start) / (values.stop - values.start)

    def y(value: float) -> float:
        return base - (base - 6.0) * min(value / (1.06 * top), 1.0)

    steps = "".join(
        f"L{x(a):.1f} {y(d):.1f}H{x(b):.1f}"
        for a, b, d in zip(edges, edges[1:], density, strict=False)
    )
    low, high = x(values.clip_low), x(values.clip_high)
    parts = [
        f'<rect class="beyond" x="0" y="4" width="{max(low, 0):.1f}" height="{base - 4:.1f}"/>',
        f'<rect class="beyond" x="{high:.1f}" y="4" width="{max(width - high, 0):.1f}" '
        f'height="{base - 4:.1f}"/>',
        f'<path class="values" d="M0 {base:.1f}{steps}V{base:.1f}Z"/>',
    ]
    if prior is not None:
        line = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(curve, prior, strict=True))
        name = "prior" if values.prior.chosen else "prior unused"
        parts.append(f'<path class="{name}" d="M{line}"/>')
    parts.append(f'<path class="axis" d="M0 {base:.1f}H{width:.0f}"/>')
    for value, place in ((values.clip_low, low), (values.clip_high, high)):
        if value != 0.0:
            parts.append(f'<path class="clip" d="M{place:.1f} 4V{base + 4:.1f}"/>')
    ends = [(values.clip_low, low)] * (high - low > 50) + [(values.clip_high, high)]
    for value, place in ends:
        side = "start" if place < 20 else "end" if place > width - 20 else "mid"
        parts.append(f'<text x="{place:.1f}" y="107" class="{side}">{_number(value)}</text>')
    return _svg(width, height, label, parts)


def cost_plot(rows: Sequence[LayerRow], marked: Sequence[str]) -> str:
    """What each layer alone costs the outputs, as share of all, through the network.

    Args:
        rows: in the order of execution.
        marked: names of the rows that get a number, in its order.
    """
    height, base = 196.0, 172.0
    known = [row.sensitivity for row in rows]
    total = sum(value.total for value in known if value is not None) or 1.0
    top = max((value.total / total for value in known if value is not None), default=0.0) or 1.0
    ticks = _ticks(0.0, 100.0 * top)
    top = max(top, ticks[-1] / 100.0)
    place, step = _places(len(rows))
    bar = max(0.72 * step, 1.0)

    def y(share: float) -> float:
        return base - (base - 16.0) * share / top

    parts = [_grid(ticks, lambda tick: y(tick / 100.0), "{:g}")]
    for index, (row, value) in enumerate(zip(rows, known, strict=True)):
        if value is None:
            continue
        weights, output = ((part or 0.0) / total for part in (value.weights, value.activation))
        left = place(index) - bar / 2
        parts.append(
            f"<g><title>{escape(row.name)}: weights {weights:.1%}, output {output:.1%}</title>"
            f'<rect class="of-weights" x="{left:.1f}" y="{y(weights):.1f}" width="{bar:.1f}" '
            f'height="{base - y(weights):.1f}"/>'
            f'<rect class="of-output" x="{left:.1f}" y="{y(weights + output):.1f}" '
            f'width="{bar:.1f}" height="{y(weights) - y(weights + output):.1f}"/></g>'
        )
        if row.name in marked:
            parts.append(
                f'<text class="mark" x="{place(index):.1f}" y="{y(weights + output) - 4:.1f}">'
                f"{marked.index(row.name) + 1}</text>"
            )
    parts.append(_depth_axis(len(rows), base, place))
    return _svg(WIDTH, height, "What each layer alone costs the outputs, in percent of all", parts)


def error_plot(rows: Sequence[LayerRow]) -> str:
    """SQNR of outputs and weights through the depth of the network."""
    height, base = 196.0, 172.0
    series = [
        ("of-output", [row.output_sqnr_db for row in rows]),
        ("of-weights", [row.weight_sqnr_db for row in rows]),
    ]
    known = [value for _, values in series for value in values if value is not None]
    ticks = _ticks(min([0.0, *known]), max([10.0, *known]))
    place, step = _places(len(rows))

    def y(value: float) -> float:
        return base - (base - 10.0) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    radius = min(max(0.22 * step, 1.2), 2.6)
    parts = [_grid(ticks, y, "{:g}")]
    for name, values in series:
        points = [(place(i), y(v), i) for i, v in enumerate(values) if v is not None]
        if name == "of-output" and points:
            line = "L".join(f"{a:.1f} {b:.1f}" for a, b, _ in points)
            parts.append(f'<path class="line {name}" d="M{line}"/>')
        parts += [
            f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}"><title>'
            f"{escape(rows[i].name)}: {values[i]:.1f} dB</title></circle>"
            for a, b, i in points
        ]
    parts.append(_depth_axis(len(rows), base, place))
    return _svg(WIDTH, height, "SQNR in dB of the outputs and the weights of each layer", parts)


def bits_plot(
    rows: Sequence[LayerRow], channels: Sequence[Sequence[tuple[int, int]]], style: str
) -> str:
    """How many channels have how many bits, a column for each layer.

    Args:
        rows: in the order of execution.
        channels: of each row (bits, channels); nothing for a layer in float or without any.
        style: "of-weights" or "of-output", for the colour.
    """
    height, base = 138.0, 114.0
    place, step = _places(len(rows))
    cell = (base - 10.0) / (GRID_BITS + 1)

    def y(bits: float) -> float:
        return base - cell * (bits + 0.5)

    parts = [_grid((0.0, 2.0, 4.0, 6.0, 8.0), y, "{:g}")]
    for index, (row, counts) in enumerate(zip(rows, channels, strict=True)):
        total = sum(count for _, count in counts)
        for bits, count in counts:
            parts.append(
                f'<rect class="{style}" x="{place(index) - 0.42 * step:.1f}" '
                f'y="{y(bits) - 0.42 * cell:.1f}" width="{max(0.84 * step, 0.8):.1f}" '
                f'height="{0.84 * cell:.1f}" opacity="{0.3 + 0.7 * count / total:.2f}">'
                f"<title>{escape(row.name)}: {count} of {total} at {bits} bits</title></rect>"
            )
    parts.append(_depth_axis(len(rows), base, place))
    return _svg(WIDTH, height, "Bits of the channels of each layer", parts)


def accuracy_plot(points: Sequence[tuple[float, float, str]]) -> str:
    """Accuracy over average bits.

    Args:
        points: (average bits of a weight, accuracy as a share, name).
    """
    height, base = 196.0, 172.0
    bits = [point[0] for point in points]
    shares = [100.0 * point[1] for point in points]
    across, up = _ticks(min(bits), max(bits)), _ticks(min(shares), max(shares))

    def x(value: float) -> float:
        reach = WIDTH - LEFT - RIGHT - 24.0
        return LEFT + 12.0 + reach * (value - across[0]) / (across[-1] - across[0])

    def y(value: float) -> float:
        return base - (base - 16.0) * (value - up[0]) / (up[-1] - up[0])

    parts = [_grid(up, y, "{:g}")]
    ordered = sorted(zip(bits, shares, (point[2] for point in points), strict=True))
    line = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b, _ in ordered)
    parts.append(f'<path class="line of-weights" d="M{line}"/>')
    parts += [
        f'<circle class="of-weights" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"><title>'
        f"{escape(name)}: {b:.2f} % at {a:.2f} bits</title></circle>"
        for a, b, name in ordered
    ]
    parts.append(f'<path class="axis" d="M{LEFT:.0f} {base:.1f}H{WIDTH - RIGHT:.0f}"/>')
    parts += [
        f'<text class="mid" x="{x(tick):.1f}" y="{base + 15:.1f}">{tick:g}</text>'
        for tick in across
    ]
    return _svg(WIDTH, height, "Accuracy in percent over average bits of a weight", parts)


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _places(count: int) -> tuple[Callable[[int], float], float]:
    """Where the columns of the layers stand, and how far apart."""
    step = (WIDTH - LEFT - RIGHT) / max(count, 1)
    return lambda index: LEFT + step * (index + 0.5), step


def _grid(ticks: Sequence[float], y: Callable[[float], float], pattern: str) -> str:
    return "".join(
        f'<path class="grid" d="M{LEFT:.0f} {y(tick):.1f}H{WIDTH - RIGHT:.0f}"/>'
        f'<text class="end" x="{LEFT - 6:.0f}" y="{y(tick) + 4:.1f}">{pattern.format(tick)}</text>'
        for tick in ticks
    )


def _depth_axis(count: int, base: float, place: Callable[[int], float]) -> str:
    """The base line, with the numbers of some layers."""
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    step = next((s for s in steps if count / s <= 12), steps[-1])
    numbers = [1, *range(step, count + 1, step)] if step > 1 else range(1, count + 1)
    return f'<path class="axis" d="M{LEFT:.0f} {base:.1f}H{WIDTH - RIGHT:.0f}"/>' + "".join(
        f'<text class="mid" x="{place(number - 1):.1f}" y="{base + 15:.1f}">{number}</text>'
        for number in numbers
    )


def _ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Round numbers from at most `low` to at least `high`."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(step * index, 10) for index in range(first, last + 1))


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
