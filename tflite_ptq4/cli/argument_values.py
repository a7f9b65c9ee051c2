"""Values of arguments: what the text of one stands for, and a sentence where it cannot be meant."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


class ChannelValues(argparse.Action):
    """Collects one number, or three, given as `1 2 3` or `1,2,3`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the number or the three, or let the parser refuse them."""
        numbers = [number for group in values for number in group]
        if len(numbers) not in (1, 3):
            parser.error(
                f"{option_string} must be one number or three, one per channel, got {len(numbers)}"
            )
        if self.dest == "std" and min(numbers) <= 0:
            parser.error(f"{option_string} must be above zero, got {min(numbers):g}")
        setattr(namespace, self.dest, numbers[0] if len(numbers) == 1 else tuple(numbers))


def positive_integer(text: str) -> int:
    """Parse a whole number above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above zero, got {text!r}")
    return value


def at_least(smallest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are not smaller than one."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {smallest}, got {text!r}"
            )
        return int(text)

    return parse


def thread_counts(text: str) -> list[int]:
    """Parse `1` or `1,2,4`."""
    return list(dict.fromkeys(positive_integer(part) for part in text.split(",")))


def averages_of_bits(text: str) -> list[float]:
    """Parse `4` or `3,4,4.5,8`: bits of a weight on average."""
    values = list(dict.fromkeys(finite_numbers(text)))
    if not all(2 <= value <= 8 for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers from 2 to 8, got {text!r}")
    return values


def seconds(text: str) -> float:
    """Parse a time of at least 0 seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
    return value


def finite_numbers(text: str) -> list[float]:
    """Parse `127` or `123.7,116.3,103.5`."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"must be numbers such as 127 or 1.5,2,3, got {text!r}")
    return values


def finite_number(text: str) -> float:
    """Parse one number."""
    numbers = finite_numbers(text)
    if len(numbers) != 1:
        raise argparse.ArgumentTypeError(f"must be one number, got {text!r}")
    return numbers[0]
