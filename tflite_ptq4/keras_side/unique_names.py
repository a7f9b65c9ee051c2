"""Names for Keras layers that are made: without what Keras or TensorFlow refuse, all different."""

from __future__ import annotations

from collections.abc import Iterable


class UniqueNames:
    """Gives out names.

    Args:
        slash: stands for a slash.
        second: the number behind the second layer of a name, as in "conv_2".
    """

    def __init__(self, slash: str, *, second: int) -> None:
        self._slash, self._second = slash, second
        self._taken: set[str] = set()

    def reserve(self, names: Iterable[str]) -> None:
        """Give out none of these names."""
        self._taken.update(names)

    def __call__(self, wish: str) -> str:
        """The name that is wished for, numbered where it is taken."""
        # "split:1" is what a layer gives second.
        name = base = wish.replace("/", self._slash).replace(":", ".")
        number = self._second
        while name in self._taken:
            name = f"{base}_{number}"
            number += 1
        self._taken.add(name)
        return name
