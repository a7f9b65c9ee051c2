"""Progress of long steps on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
# What `track` does: given a description and items, it gives the items back one by one.
Track = Callable[[str, Sequence[Any]], Iterable[Any]]

_PLAIN_LINES = 4


def track(description: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield the items and show on stderr how many of them are done.

    Off a terminal it prints one line for each quarter, so that a log stays short.

    Args:
        description: what is being done, e.g. "Calibrating".
        items: what it is done to, e.g. the starts of the batches.
    """
    return _with_bar(description, items) if sys.stderr.isatty() else _with_lines(description, items)


def _with_bar(description: str, items: Sequence[Item]) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, description=description)


def _with_lines(description: str, items: Sequence[Item]) -> Iterator[Item]:
    total = len(items)
    for done, item in enumerate(items, start=1):
        yield item
        if done * _PLAIN_LINES // total != (done - 1) * _PLAIN_LINES // total:
            print(f"{description}: {done} of {total}", file=sys.stderr, flush=True)
