"""Numbers of the report as the page shows them; what was not measured is shown as nothing."""

from __future__ import annotations


def bits(value: float) -> str:
    """Bits of a tensor, "float" where it is not quantized."""
    return "float" if value > 16 else f"{value:.3g} bits"


def counted(count: int | None, noun: str) -> str:
    """A number of things, such as "1 image"."""
    return f"{count or 0:,} {noun}{'s' * (count != 1)}"


def percent(value: float | None) -> str:
    """A share in [0, 1], "" where it was not measured."""
    return "" if value is None else f"{value:.1%}"


def decibels(value: float | None) -> str:
    """An SQNR, "" where it was not measured."""
    return "" if value is None else f"{value:.1f} dB"


def decibels_alone(value: float | None) -> str:
    """An SQNR for a column that names the unit."""
    return "" if value is None else f"{value:.1f}"


def sort_key(value: float | None) -> str:
    """A number in the form that the page sorts a column by."""
    return "" if value is None else f"{value:.6g}"


def file_size(count: int) -> str:
    """Bytes in the largest unit that they fill."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
