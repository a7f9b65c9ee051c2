"""Which tensor of one model is which tensor of another: by outputs, by layer names, by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class NamedTensor:
    """A tensor as far as matching is concerned.

    Attributes:
        name: in its model.
        layers: names of layers that it can be known by, the most likely one first.
        elements: numbers for one image; None where they could not be read.
    """

    name: str
    layers: tuple[str, ...]
    elements: int | None


@dataclass(frozen=True)
class Match:
    """Two tensors that should hold the same.

    Attributes:
        first: position in the first model.
        second: position in the second model.
        by: what tells so, "output", "name" or "order".
    """

    first: int
    second: int
    by: str


def match_tensors(
    first: Sequence[NamedTensor],
    second: Sequence[NamedTensor],
    first_outputs: Mapping[str, int],
    second_outputs: Mapping[str, int],
) -> list[Match]:
    """Pair the tensors of two models; only tensors of one size are paired.

    Outputs are paired by name, or by position where they have other names. Then tensors that name
    the same layer. What is left is paired in order where, between two neighbouring pairs, both
    models have the same number of tensors of the same sizes.

    Args:
        first, second: in the order of computation.
        first_outputs, second_outputs: name of each output -> position of its tensor.

    Returns:
        The pairs, in the order of the first model; each tensor is in one at most.
    """
    matches = _Matches(first, second)
    if set(first_outputs) != set(second_outputs):
        second_outputs = dict(zip(first_outputs, second_outputs.values(), strict=False))
    for name, position in first_outputs.items():
        if name in second_outputs:
            matches.add(position, second_outputs[name], "output")
    for i, j in _by_name(first, second):
        matches.add(i, j, "name")
    for i, j in matches.between_neighbours():
        matches.add(i, j, "order")
    return sorted(matches.found, key=lambda match: match.first)


def _by_name(first: Sequence[NamedTensor], second: Sequence[NamedTensor]) -> list[tuple[int, int]]:
    """Pairs that name a layer in common, the most likely ones first."""
    ranks: dict[str, list[tuple[int, int]]] = {}
    for j, tensor in enumerate(second):
        for rank, layer in enumerate(tensor.layers):
            ranks.setdefault(layer, []).append((rank, j))
    scored = [
        (rank + other_rank, i, j)
        for i, tensor in enumerate(first)
        for rank, layer in enumerate(tensor.layers)
        for other_rank, j in ranks.get(layer, ())
    ]
    return [(i, j) for _, i, j in sorted(scored)]


class _Matches:
    """The pairs so far."""

    def __init__(self, first: Sequence[NamedTensor], second: Sequence[NamedTensor]) -> None:
        self.first, self.second = first, second
        self.found: list[Match] = []
        self.partner: dict[int, int] = {}

    def add(self, i: int, j: int, by: str) -> None:
        """Pair two tensors, if both are free and of one size."""
        sizes = self.first[i].elements, self.second[j].elements
        if i in self.partner or j in self.partner.values() or sizes[0] != sizes[1] or not sizes[0]:
            return
        self.partner[i] = j
        self.found.append(Match(i, j, by))

    def between_neighbours(self) -> list[tuple[int, int]]:
        """Pairs of what lies, in both models, between the same two pairs."""
        second_runs = _runs(len(self.second), set(self.partner.values()))
        found = []
        for (before, after), run in _runs(len(self.first), set(self.partner)).items():
            bounds = self.partner.get(before, -1), self.partner.get(after, len(self.second))
            other = second_runs.get(bounds, [])
            sizes = [self.first[i].elements for i in run]
            if sizes == [self.second[j].elements for j in other]:
                found += zip(run, other, strict=True)
        return found


def _runs(count: int, taken: set[int]) -> dict[tuple[int, int], list[int]]:
    """The free positions between two taken ones, by these; -1 and `count` at the ends."""
    free = [i for i in range(count) if i not in taken]
    runs = [
        [i for _, i in group]
        for _, group in groupby(enumerate(free), lambda pair: pair[1] - pair[0])
    ]
    return {(run[0] - 1, run[-1] + 1): run for run in runs}
