"""What the commands print: results on stdout, for people or as JSON, and messages on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from tflite_ptq4.text_table import aligned


@contextmanager
def results_only_on_stdout() -> Iterator[None]:
    """Send what libraries print meanwhile to stderr: Keras reports each export on stdout."""
    with redirect_stdout(sys.stderr):
        yield


def message(text: str) -> None:
    """Print a message for the user on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as JSON; numbers that are not finite, which JSON lacks, become null."""
    print(json.dumps(_json_value(result), indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn by rich on a terminal, aligned plain text elsewhere.

    The first column is text and lies left; the others are right-aligned where all are numbers.

    Args:
        title: what stands above it.
        columns: the headings.
        rows: the cells of each row.
    """
    left = [
        index == 0 or not all(_is_number(row[index]) for row in rows)
        for index in range(len(columns))
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for column, is_left in zip(columns, left, strict=True):
            table.add_column(column, justify="left" if is_left else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    print(title)
    for line in aligned([columns, *rows], left):
        print(f"  {line}")
    print()


def number(value: float | None, pattern: str = "{:g}") -> str:
    """Return a number for a table, "-" for None."""
    return "-" if value is None else pattern.format(value)


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as percent, "-" for None."""
    return number(share, "{:.2%}")


def decibels(value: float) -> str:
    """Return an SQNR; infinity means that there is no difference at all."""
    return "equal" if value == math.inf else f"{value:.1f} dB"


def _is_number(cell: str) -> bool:
    return cell in ("-", "equal") or cell[:1].isdigit() or cell[:1] == "-"


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return _json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
