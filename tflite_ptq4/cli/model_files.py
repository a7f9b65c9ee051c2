"""The models that a command is given: of which kind they are, and which images all of them take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tflite_ptq4.errors import ModelError
from tflite_ptq4.evaluation.runnable_models import read_model_file
from tflite_ptq4.file_identifier import has_identifier
from tflite_ptq4.input_shapes import Shape, size_text


class _TakesImages(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def input_shapes(self) -> Mapping[str, Shape]: ...


def common_input_shapes(models: Sequence[_TakesImages]) -> dict[str, Shape]:
    """Return the shapes that all models take, None where any length will do.

    Of models of one input it is the same one, whatever they call it; several are told by name.

    Returns:
        For each input of the first model, in its order, the shape without the batch axis.

    Raises:
        ModelError: two models take other inputs, or images of different shapes.
    """
    first, *others = models
    shapes = dict(first.input_shapes)
    for model in others:
        taken = model.input_shapes
        if len(taken) == len(shapes) == 1:
            taken = dict(zip(shapes, taken.values(), strict=True))
        found = {name: _agreed(shape, taken.get(name)) for name, shape in shapes.items()}
        if taken.keys() != shapes.keys() or None in found.values():
            raise ModelError(
                f"Models that are compared must take the same images: {first.name!r} takes "
                f"{_text(first)}, {model.name!r} takes {_text(model)}. Choose models whose inputs "
                "have the same names and sizes."
            )
        shapes = found
    return shapes


def _agreed(shape: Shape, other: Shape | None) -> Shape | None:
    """The shape that fits both, None where none does."""
    if other is None or len(other) != len(shape):
        return None
    sides = list(zip(shape, other, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in sides):
        return None
    return tuple(b if a is None else a for a, b in sides)


def _text(model: _TakesImages) -> str:
    return ", ".join(f"{name!r} of {size_text(s)}" for name, s in model.input_shapes.items())


def is_tflite(path: Path) -> bool:
    """Whether the file is to be read as TFLite: it says so in its name or its content."""
    if path.suffix == ".tflite":
        return True
    return path.is_file() and has_identifier(read_model_file(path))
