"""Tables of plain text: every column as wide as its widest cell."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """The lines of a table.

    Args:
        rows: the cells, with the headings as the first row; all rows of one length.
        left: for each column whether its cells lie left; otherwise they lie right.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]
