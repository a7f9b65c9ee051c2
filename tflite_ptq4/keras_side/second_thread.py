"""A second thread for work that one thread alone leaves half a processor idle with.

TensorFlow's operators and numpy's on large arrays run without Python's lock, but are too small, one
by one, to keep two cores busy. Whoever does a piece of work, its result is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class SecondThread:
    """A thread that does what it is given, in that order, until the `with` block is left."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        """Return the thread, which waits for work."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is left, or leave it undone after an error."""
        self._executor.shutdown(cancel_futures=error is not None)

    def start(self, task: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Let it do a task when it has done all that it was given before.

        Args:
            task: what to call.
            arguments: what with.

        Returns:
            The future result.
        """
        return self._executor.submit(task, *arguments)

    def share(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Do a task for each item, in both threads as soon as the second has nothing else to do.

        Args:
            task: what to call; must not depend on the order of the calls.
            items: what with, one by one.

        Returns:
            The results in the order of the items, as `map` gives them.
        """
        left = deque(enumerate(items))
        results: list = [None] * len(left)

        def work() -> None:
            while True:
                try:
                    position, item = left.popleft()
                except IndexError:
                    return
                results[position] = task(item)

        beside = self._executor.submit(work)
        try:
            work()
        finally:
            left.clear()
        if not beside.cancel():
            beside.result()
        return results
