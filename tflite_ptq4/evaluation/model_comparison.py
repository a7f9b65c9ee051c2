"""Two models held against each other on images, layer by layer, from the inputs to the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tflite_ptq4.errors import DataError, ModelError
from tflite_ptq4.evaluation.layer_matching import Match, NamedTensor, match_tensors
from tflite_ptq4.evaluation.open_models import OpenModel, OpenTensor
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.numerics.closeness import ratio_db

_IMAGES_AT_ONCE = 8
_GOOD_DB = 40.0  # an error of one percent of the signal
_DEAD = 1e-6  # of the usual magnitude; the rounding of float32 sums of a few hundred terms
_OFF_GRID = 1e-2  # of a step; float32 keeps scale * q within 0.004 for every 16-bit q


@dataclass(frozen=True)
class LayerComparison:
    """One tensor of the first model against one of the second.

    Attributes:
        first: name in the first model.
        second: name in the second model.
        matched_by: "output", "name" of the layer, or "order" between two other pairs.
        is_output: whether it is an output of both models.
        elements: numbers for one image.
        sqnr_db: of the second against the first; infinity where they are equal.
        cosine: of all values of both, None where one of them is zero everywhere.
        max_difference: largest absolute difference.
        integers_that_differ: how many of all, where both lie on the same grid; None elsewhere.
        most_steps: the largest difference in steps of that grid, None elsewhere.
        dead: whether both hold next to nothing, in root mean square less than a millionth of what
            the layers of the first model hold (their median). What is left there is rounding, and
            its SQNR says nothing. An output is never dead.
    """

    first: str
    second: str
    matched_by: str
    is_output: bool
    elements: int
    sqnr_db: float
    cosine: float | None
    max_difference: float
    integers_that_differ: int | None
    most_steps: int | None
    dead: bool

    @property
    def equal(self) -> bool:
        """Whether no value differs."""
        return self.max_difference == 0.0


@dataclass(frozen=True)
class ModelComparison:
    """What the comparison of two models gave.

    Attributes:
        first: name of the first model.
        second: name of the second model.
        images: how many were run.
        threshold_db: layers below it are where the models part.
        layers: the pairs, in the order of the first model's computation.
        only_in_first: layers that no layer of the second was found for.
        only_in_second: the other way round.
    """

    first: str
    second: str
    images: int
    threshold_db: float
    layers: tuple[LayerComparison, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]

    @property
    def first_difference(self) -> LayerComparison | None:
        """The first layer in which any value differs."""
        return next((layer for layer in self.layers if not layer.equal), None)

    @property
    def parting(self) -> LayerComparison | None:
        """The first layer below the threshold, dead ones left aside."""
        return next((layer for layer in self._alive if layer.sqnr_db < self.threshold_db), None)

    @property
    def largest_drop(self) -> tuple[LayerComparison, LayerComparison] | None:
        """The two neighbours between which the SQNR falls most, below 40 dB; None where none is."""
        drops = [
            (min(before.sqnr_db, _GOOD_DB) - after.sqnr_db, before, after)
            for before, after in pairwise(self._alive)
        ]
        drop, before, after = max(drops, key=lambda entry: entry[0], default=(0.0, None, None))
        return (before, after) if before and after and drop > 0 else None

    @property
    def _alive(self) -> list[LayerComparison]:
        return [layer for layer in self.layers if not layer.dead]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR (no difference at all) is None, as JSON asks."""
        named = ("first_difference", "parting")
        found = {name: getattr(self, name) for name in named}
        drop = self.largest_drop
        return {
            **asdict(self),
            "layers": [_plain(layer) for layer in self.layers],
            **{name: layer and layer.first for name, layer in found.items()},
            "largest_drop": drop and [layer.first for layer in drop],
        }


def compare_models(
    first: OpenModel,
    second: OpenModel,
    images: ImageSet,
    *,
    threshold_db: float,
    progress: Callable[[Sequence[int]], Iterable[int]] | None = None,
) -> ModelComparison:
    """Run two models on the same images, and compare what their layers give.

    Args:
        first: the reference.
        second: a model whose inputs have the same names; of one input, any name.
        images: read for the inputs of the first model.
        threshold_db: below this SQNR two layers part.
        progress: wraps the list of the images' first indices.

    Returns:
        A row for each pair of layers, and the layers without a partner.

    Raises:
        ModelError: nothing of the models can be compared, or a value is NaN or infinite.
        DataError: an output has another size in the second model.
        FileFormatError: LiteRT cannot run a file.
    """
    named = images.named(first.input_shapes)
    pairs: list[tuple[Match, _Sums]] = []
    tensors: tuple[list[NamedTensor], list[NamedTensor]] = ([], [])
    starts = range(0, len(images), _IMAGES_AT_ONCE)
    for start in progress(starts) if progress else starts:
        batch = {name: a[start : start + _IMAGES_AT_ONCE] for name, a in named.items()}
        values = [_run(model, batch) for model in (first, second)]
        if not pairs:
            tensors = _named(first, values[0]), _named(second, values[1])
            _check_outputs(first, second, *tensors)
            matches = match_tensors(*tensors, first.outputs, second.outputs)
            if not matches:
                raise ModelError(
                    f"{first.name!r} and {second.name!r} must have a layer or an output in common. "
                    "Received: two models in which neither names nor sizes agree."
                )
            pairs = [
                (match, _Sums(first.tensors[match.first], second.tensors[match.second]))
                for match in matches
            ]
        for match, sums in pairs:
            sums.add(values[0][match.first], values[1][match.second])
    for model, side in ((first, "first"), (second, "second")):
        for match, sums in pairs:
            if not sums.finite[side]:
                name = model.tensors[getattr(match, side)].name
                raise ModelError(
                    f"{model.name!r} must compute finite numbers. Received: NaN or infinity in "
                    f"{name!r}. Check the images, and the layers before it."
                )
    outputs = set(first.outputs.values())
    dead_below = _DEAD * float(np.median([sums.magnitudes[0] for _, sums in pairs]))
    return ModelComparison(
        first=first.name,
        second=second.name,
        images=len(images),
        threshold_db=threshold_db,
        layers=tuple(sums.row(match, match.first in outputs, dead_below) for match, sums in pairs),
        only_in_first=_without(tensors[0], {match.first for match, _ in pairs}),
        only_in_second=_without(tensors[1], {match.second for match, _ in pairs}),
    )


def _run(model: OpenModel, batch: Mapping[str, np.ndarray]) -> list[np.ndarray | None]:
    # The only input of a model may have any name.
    names = model.input_shapes if len(batch) > 1 else batch
    return model.run([batch[name] for name in names])


def _named(model: OpenModel, values: Sequence[np.ndarray | None]) -> list[NamedTensor]:
    return [
        NamedTensor(tensor.name, tensor.layers, None if value is None else value.shape[1])
        for tensor, value in zip(model.tensors, values, strict=True)
    ]


def _check_outputs(
    first: OpenModel,
    second: OpenModel,
    first_tensors: Sequence[NamedTensor],
    second_tensors: Sequence[NamedTensor],
) -> None:
    if len(first.outputs) != 1 or len(second.outputs) != 1:
        return
    sizes = [
        tensors[position].elements
        for model, tensors in ((first, first_tensors), (second, second_tensors))
        for position in model.outputs.values()
    ]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"Models that are compared must answer in one shape: {first.name!r} gives {sizes[0]} "
            f"numbers for an image, {second.name!r} gives {sizes[1]}. Choose models of the same "
            "task."
        )


def _without(tensors: Sequence[NamedTensor], matched: set[int]) -> tuple[str, ...]:
    return tuple(tensor.name for i, tensor in enumerate(tensors) if i not in matched)


def _plain(layer: LayerComparison) -> dict[str, Any]:
    finite = math.isfinite(layer.sqnr_db)
    return {**asdict(layer), "sqnr_db": layer.sqnr_db if finite else None, "equal": layer.equal}


class _Sums:
    """What is added up over the images for one pair of tensors."""

    def __init__(self, first: OpenTensor, second: OpenTensor) -> None:
        self.first, self.second = first, second
        self.signal = self.other_signal = self.noise = self.product = 0.0
        self.images, self.elements, self.max_difference = 0, 0, 0.0
        self.finite = {"first": True, "second": True}
        self.step = _common_step(first, second)
        self.differ = self.most_steps = 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Add the values of some images, [n, elements] each."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        self.finite["first"] &= bool(np.isfinite(a).all())
        self.finite["second"] &= bool(np.isfinite(b).all())
        if not all(self.finite.values()):
            return
        difference = np.abs(a - b)
        self.images += a.shape[0]
        self.elements = a.shape[1]
        self.signal += float((a * a).sum())
        self.other_signal += float((b * b).sum())
        self.product += float((a * b).sum())
        self.noise += float((difference * difference).sum())
        self.max_difference = max(self.max_difference, float(difference.max()))
        if self.step is not None:
            steps = [values / self.step for values in (a, b)]
            if max(float(np.abs(s - np.rint(s)).max()) for s in steps) > _OFF_GRID:
                self.step = None
                return
            apart = np.abs(np.rint(steps[0]) - np.rint(steps[1]))
            self.differ += int(np.count_nonzero(apart))
            self.most_steps = max(self.most_steps, int(apart.max()))

    @property
    def magnitudes(self) -> tuple[float, float]:
        """The root mean squares of the two tensors."""
        count = max(self.images * self.elements, 1)
        return math.sqrt(self.signal / count), math.sqrt(self.other_signal / count)

    def row(self, match: Match, is_output: bool, dead_below: float) -> LayerComparison:
        """The row of the pair; both are dead where both magnitudes are less than a bound."""
        length = math.sqrt(self.signal * self.other_signal)
        on_grid = self.step is not None
        return LayerComparison(
            first=self.first.name,
            second=self.second.name,
            matched_by=match.by,
            is_output=is_output,
            elements=self.elements,
            sqnr_db=ratio_db(self.signal, self.noise),
            cosine=self.product / length if length > 0 else None,
            max_difference=self.max_difference,
            integers_that_differ=self.differ if on_grid else None,
            most_steps=self.most_steps if on_grid else None,
            dead=not is_output and max(self.magnitudes) < dead_below,
        )


def _common_step(first: OpenTensor, second: OpenTensor) -> float | None:
    """The step of the grid that both may lie on; a float tensor may, as in a simulated model."""
    if first.scale is None or second.scale is None:
        return first.scale if second.scale is None else second.scale
    same = (first.scale, first.zero_point) == (second.scale, second.zero_point)
    return first.scale if same else None
