"""The sizes of inputs that an export fixes: asked for, the model's own, or those of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

from tflite_ptq4.errors import ConfigError

# Without the batch axis: (height, width, channels) of an image.
Shape = tuple[int | None, ...]
# As users write them: the shape of the only input, or shapes by the names of inputs.
InputShapes = Sequence[int] | Mapping[str, Sequence[int]]


def fixed_input_shapes(
    own: Mapping[str, Shape], known: Mapping[str, Shape], asked: InputShapes | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of each input: what is asked for, else what is known of it.

    Args:
        own: for each input of the model the shape that it takes, None for a side of any length.
        known: the same, with the sides of the images that the model was quantized on.
        asked: the shape of the only input, or shapes by the names of inputs; None for no wish.

    Returns:
        For each input, in the order of `own`, its shape.

    Raises:
        ConfigError: what is asked for names no input, is no size, or contradicts the model; or
            nothing tells the length of a side.
    """
    wishes = _by_name(own, asked)
    for name, wish in wishes.items():
        _check(name, own[name], wish)
    found = {name: tuple(wishes.get(name, known[name])) for name in own}
    for name, shape in found.items():
        if None in shape:
            raise ConfigError(
                f"Every side of an input must have one length in the file. Received: input "
                f"{name!r} of {size_text(shape)}, and no images. Name the sizes with input_shapes "
                "(--input-size), or quantize the model with images."
            )
    return found


def _by_name(own: Mapping[str, object], asked: InputShapes | None) -> dict[str, tuple[int, ...]]:
    names = ", ".join(own)
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        if len(own) != 1:
            raise ConfigError(
                f"`input_shapes` must be a dict by name for a model of {len(own)} inputs "
                f"({names}). Received: {asked!r}. Name the input of each shape."
            )
        asked = dict.fromkeys(own, asked)
    unknown = sorted(set(map(str, asked)) - set(own))
    if unknown:
        raise ConfigError(
            f"`input_shapes` must name inputs of the model ({names}). Received: "
            f"{', '.join(unknown)}. Use those names."
        )
    return {name: _as_tuple(name, wish) for name, wish in asked.items()}


def _as_tuple(name: str, wish: object) -> tuple[int, ...]:
    sides = wish if isinstance(wish, Sequence) else ()
    if sides and all(isinstance(side, Integral) and side > 0 for side in sides):
        return tuple(map(int, sides))
    raise ConfigError(
        f"`input_shapes` must hold whole numbers above zero, such as (224, 224, 3), without the "
        f"batch. Received: {wish!r} for input {name!r}. Write such a tuple."
    )


def _check(name: str, own: Shape, wish: Shape) -> None:
    """Refuse a shape that the model does not take."""
    fits = len(own) == len(wish) and all(
        fixed in (None, side) for fixed, side in zip(own, wish, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"`input_shapes` (--input-size) must agree with the model, whose input {name!r} is "
            f"{size_text(own)}. Received: {size_text(wish)}. Leave the fixed sides as they are, or "
            "build the model on a keras.Input with None for the sides that are to change."
        )


def size_text(shape: Sequence[int | None]) -> str:
    """Return a size for messages: `224 x 224 x 3`, `any` where any length will do."""
    return " x ".join("any" if side is None else str(side) for side in shape)
