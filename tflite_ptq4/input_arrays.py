"""The images of a network's inputs, as users pass them: one array for each, in order, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.errors import DataError
from tflite_ptq4.input_shapes import Shape, size_text

# Names of inputs, nested in lists and dicts as the model takes its inputs; one name for one input.
InputStructure = str | list | tuple | Mapping

NUMBER_KINDS = "buif"  # of a NumPy dtype: booleans, integers and floating-point numbers


class Images(Protocol):
    """[n, ...]: an array, or what gives arrays under slicing."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, index: slice) -> NDArray:
        """Return some of the images as an array."""


def arrays_in_order(
    images: object, shapes: Mapping[str, Shape], structure: InputStructure
) -> tuple[Images, ...]:
    """The images of each input, picked by order, by name, or by the structure of the inputs.

    Args:
        images: what `model.predict` takes: the array of the only input; for several inputs a list
            in the order of the model's inputs, a dict by name, or lists and dicts nested as the
            model takes them. Arrays hold any real numbers [n, ...].
        shapes: for each input, in the order of the model, its shape without the batch axis, None
            for a side of any length.
        structure: how the model takes its inputs.

    Returns:
        For each input its images, not copied.

    Raises:
        DataError: there is no array for an input or one too many, or `check_arrays` refuses.
    """
    picked = _picked(images, shapes, structure)
    arrays = {name: _as_array(name, picked[name]) for name in shapes}
    check_arrays(arrays, shapes)
    return tuple(arrays.values())


def check_arrays(
    arrays: Mapping[str, Images], shapes: Mapping[str, Shape], source: str = "`images`"
) -> None:
    """Refuse images that a network cannot take.

    Args:
        arrays: for each input its images.
        shapes: for each input its shape without the batch axis, None for a side of any length.
        source: where the images are from, for the messages.

    Raises:
        DataError: there is no image, not the same number of them for every input, or images of one
            input are no numbers or of another shape; the message names the input.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBER_KINDS:
            raise DataError(
                f"{source} must be real numbers. Received: {array.dtype} for input {name!r}."
            )
        if array.shape[:1] == (0,):
            raise DataError(
                f"{source} must hold at least one image. Received: none for input {name!r}."
            )
        expected, received = shapes[name], array.shape[1:]
        fits = len(array.shape) == len(expected) + 1 and all(
            want in (None, have) for want, have in zip(expected, received, strict=True)
        )
        if not fits:
            raise DataError(
                f"{source} must have the shape of the model's input {name!r}, "
                f"{size_text(expected)} per image. Received: {size_text(received) or 'a number'}. "
                "Prepare them as the model expects them."
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{count} for {name!r}" for name, count in counts.items())
        raise DataError(
            f"{source} must hold the same number of images for every input. Received: {text}. "
            "Image i of each input belongs to image i of the others."
        )


def finite_arrays(
    arrays: Mapping[str, Images], source: str = "`images`"
) -> tuple[NDArray[np.float32], ...]:
    """The images of each input as arrays in memory.

    Args:
        arrays: for each input its images.
        source: where the images are from, for the message.

    Returns:
        For each input float32 [n, ...].

    Raises:
        DataError: a value is NaN, infinite, or beyond float32; the message names the input.
    """
    found = []
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            values = np.asarray(array[:], dtype=np.float32)
        broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if broken.any():
            raise DataError(
                f"{source} must be finite. Received: NaN or Inf in {int(broken.sum())} of "
                f"{len(values)} images of input {name!r}. Check how they are prepared."
            )
        found.append(values)
    return tuple(found)


def filled_batch(images: NDArray, size: int) -> NDArray:
    """Images filled up with their last one, for a model that takes so many at a time.

    Args:
        images: [n, ...], at least one.
        size: the number wanted, at least n.

    Returns:
        [size, ...].
    """
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])


def _picked(
    images: object, shapes: Mapping[str, Shape], structure: InputStructure
) -> dict[str, Any]:
    """What is given for each input, by name."""
    names = list(shapes)
    if isinstance(images, Mapping):
        by_name = {name: name for name in names}
        own = isinstance(structure, Mapping) and (
            set(images) == set(structure) or set(images) != set(names)
        )
        return dict(_matched(images, structure if own else by_name))
    if len(names) == 1:
        listed = isinstance(images, list | tuple) and len(images) == 1
        rank = len(shapes[names[0]]) + 1
        # A list of one array; of one image it would be nested lists, or an array of lower rank.
        is_alone = listed and len(getattr(images[0], "shape", ())) == rank
        return {names[0]: images[0] if is_alone else images}
    # Keras sorts the keys, users may not: what a list means is then not certain.
    unordered = isinstance(structure, Mapping) and list(structure) != sorted(structure)
    nested = (
        isinstance(structure, list | tuple)
        and isinstance(images, list | tuple)
        and len(images) == len(structure)
    )
    return dict(_matched(images, structure if unordered or nested else names))


def _matched(
    value: Any, structure: InputStructure, where: str = "images"
) -> Iterator[tuple[str, object]]:
    """Each input with its part of a value of the same structure."""
    if isinstance(structure, str):
        yield structure, value
    elif isinstance(structure, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(structure):
            raise _mismatch(value, structure, where)
        for key, part in structure.items():
            yield from _matched(value[key], part, f"{where}[{key!r}]")
    else:
        if not isinstance(value, list | tuple) or len(value) != len(structure):
            raise _mismatch(value, structure, where)
        for position, part in enumerate(structure):
            yield from _matched(value[position], part, f"{where}[{position}]")


def _mismatch(value: object, structure: InputStructure, where: str) -> DataError:
    if isinstance(value, Mapping):
        received = f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    elif isinstance(value, list | tuple):
        received = f"a {type(value).__name__} of {len(value)}"
    else:
        received = f"one {type(value).__name__}"
    return DataError(
        f"`{where}` must hold an array for each input of the model, {_text(structure)}. Received: "
        f"{received}. Give what model.predict takes, such as a dict by name."
    )


def _text(structure: InputStructure) -> str:
    if isinstance(structure, str):
        return structure
    if isinstance(structure, Mapping):
        parts = (
            str(key) if part == key else f"{key}: {_text(part)}" for key, part in structure.items()
        )
        return f"{{{', '.join(parts)}}}"
    return f"[{', '.join(map(_text, structure))}]"


def _as_array(name: str, value: Any) -> Images:
    # Pictures that are decoded when they are sliced stay where they are.
    if hasattr(value, "shape") and not hasattr(value, "__array__"):
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"`images` must be an array for input {name!r}. Received: {type(value).__name__}, "
            f"which is none ({error}). Give numbers of one shape for every image."
        ) from error
