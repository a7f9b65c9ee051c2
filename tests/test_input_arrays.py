"""What users pass as images, picked apart and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tflite_ptq4.errors import DataError
from tflite_ptq4.input_arrays import (
    arrays_in_order,
    check_arrays,
    filled_batch,
    finite_arrays,
)
from tflite_ptq4.input_shapes import Shape

ONE: dict[str, Shape] = {"image": (4, None, 3)}
TWO: dict[str, Shape] = {"left": (2, 2, 1), "extra": (5,)}
FOUR: dict[str, Shape] = dict.fromkeys("abcd", (1,))


def numbered(shapes: dict[str, Shape], count: int = 3) -> dict[str, np.ndarray]:
    """For each input images of which every value is the position of the input."""
    return {
        name: np.full((count, *(side or 6 for side in shape)), position, np.float32)
        for position, (name, shape) in enumerate(shapes.items())
    }


def values(arrays: Sequence[np.ndarray]) -> list[float]:
    return [float(np.unique(array).item()) for array in arrays]


IMAGE = numbered(ONE)["image"]
LEFT, EXTRA = numbered(TWO).values()
A, B, C, D = numbered(FOUR).values()


@pytest.mark.parametrize(
    ("shapes", "structure", "images"),
    [
        (ONE, "image", IMAGE),
        (ONE, "image", IMAGE.tolist()),
        (ONE, "image", [IMAGE]),
        (ONE, "image", (IMAGE,)),
        (ONE, "image", list(IMAGE)),
        (ONE, "image", {"image": IMAGE}),
        (ONE, {"photo": "image"}, {"photo": IMAGE}),
        (ONE, {"photo": "image"}, {"image": IMAGE}),
        (ONE, {"photo": "image"}, IMAGE),
        (TWO, ["left", "extra"], [LEFT, EXTRA]),
        (TWO, ["left", "extra"], (LEFT, EXTRA)),
        (TWO, ["left", "extra"], [LEFT.tolist(), EXTRA.tolist()]),
        (TWO, ["left", "extra"], {"extra": EXTRA, "left": LEFT}),
        (TWO, {"extra": "extra", "left": "left"}, {"left": LEFT, "extra": EXTRA}),
        (TWO, {"extra": "left", "left": "extra"}, {"left": EXTRA, "extra": LEFT}),
        (TWO, {"one": "left", "two": "extra"}, {"left": LEFT, "extra": EXTRA}),
        (TWO, {"one": "left", "two": "extra"}, [LEFT, EXTRA]),
        (FOUR, {"p": ["a", "b"], "q": {"r": "c", "s": "d"}}, {"q": {"s": D, "r": C}, "p": (A, B)}),
        (FOUR, {"p": ["a", "b"], "q": {"r": "c", "s": "d"}}, {"d": D, "c": C, "b": B, "a": A}),
        (FOUR, {"p": ["a", "b"], "q": {"r": "c", "s": "d"}}, [A, B, C, D]),
        (FOUR, [["a", "b", "c"], "d"], [[A, B, C], D]),
        (FOUR, [["a", "b", "c"], "d"], [A, B, C, D]),
    ],
)
def test_every_way_to_pass_images_gives_one_array_for_each_input(
    shapes: dict[str, Shape], structure: object, images: object
) -> None:
    assert values(arrays_in_order(images, shapes, structure)) == list(range(len(shapes)))


class _Decoded:
    """Images that are arrays only under slicing."""

    shape, dtype = (2, 4, 5, 3), np.dtype(np.float32)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: slice) -> np.ndarray:
        return np.ones(self.shape, np.float32)[index]


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x,), lambda x: {"image": x}])
def test_images_that_are_decoded_when_sliced_are_left_alone(pack) -> None:
    images = _Decoded()
    (found,) = arrays_in_order(pack(images), ONE, "image")
    assert found is images
    (array,) = finite_arrays({"image": images})
    assert array.shape == (2, 4, 5, 3)


def test_arrays_are_not_copied() -> None:
    left, _ = arrays_in_order([LEFT, EXTRA], TWO, ["left", "extra"])
    assert left is LEFT
    assert np.shares_memory(finite_arrays({"left": left})[0], LEFT)


NESTED = {"p": ["a", "b"], "q": {"r": "c", "s": "d"}}


@pytest.mark.parametrize(
    ("shapes", "structure", "images", "message"),
    [
        (TWO, ["left", "extra"], LEFT, r"\[left, extra\]\. Received: one ndarray"),
        (TWO, ["left", "extra"], [LEFT], r"\[left, extra\]\. Received: a list of 1"),
        (TWO, ["left", "extra"], (LEFT, EXTRA, EXTRA), "Received: a tuple of 3"),
        (TWO, ["left", "extra"], [], "Received: a list of 0"),
        (TWO, ["left", "extra"], {"left": LEFT}, r"{left, extra}\. Received: a dict of left\."),
        (TWO, ["left", "extra"], {}, "Received: a dict of nothing"),
        (
            TWO,
            ["left", "extra"],
            {"left": LEFT, "extra": EXTRA, "more": LEFT},
            "Received: a dict of left, extra, more",
        ),
        (ONE, "image", {"x": IMAGE}, r"{image}\. Received: a dict of x"),
        # Keras sorts the keys of such a dict: whose order the list has, it does not say.
        (TWO, {"two": "left", "one": "extra"}, [LEFT, EXTRA], r"{two: left, one: extra}\. Rec"),
        (FOUR, NESTED, {"p": [A, B]}, r"{p: \[a, b\], q: {r: c, s: d}}\. Received: a dict of p"),
        (FOUR, NESTED, {"p": [A, B], "q": C}, r"`images\['q'\]` .* {r: c, s: d}\. Rec.*: one nda"),
        (FOUR, NESTED, {"p": A, "q": {"r": C, "s": D}}, r"`images\['p'\]` .* \[a, b\]\. Received"),
        (FOUR, [["a", "b"], ["c", "d"]], [[A, B], [C]], r"`images\[1\]` .* a list of 1"),
    ],
)
def test_an_array_too_few_or_too_many_is_refused(
    shapes: dict[str, Shape], structure: object, images: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        arrays_in_order(images, shapes, structure)


@pytest.mark.parametrize(
    ("left", "extra", "message"),
    [
        (LEFT, EXTRA[:, :4], "input 'extra', 5 per image. Received: 4. Prepare"),
        (LEFT, EXTRA[:, 0], "input 'extra', 5 per image. Received: a number"),
        (LEFT[..., 0], EXTRA, "input 'left', 2 x 2 x 1 per image. Received: 2 x 2"),
        (LEFT[0, 0, 0, 0], EXTRA, "input 'left', 2 x 2 x 1 per image. Received: a number"),
        (LEFT, EXTRA[:2], "same number .*: 3 for 'left', 2 for 'extra'"),
        (LEFT[:0], EXTRA, "at least one image. Received: none for input 'left'"),
        (LEFT[:0], EXTRA[:0], "at least one image"),
        (LEFT, EXTRA + 1j, "real numbers. Received: complex64 for input 'extra'"),
        (LEFT.astype(str), EXTRA, "real numbers. Received: <U32 for input 'left'"),
        (LEFT, None, "real numbers. Received: object for input 'extra'"),
        (LEFT, [[1, 2, 3, 4, 5], [1]], "an array for input 'extra'. Received: list, which is none"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_the_name_of_its_input(
    left: object, extra: object, message: str
) -> None:
    for images in ([left, extra], {"extra": extra, "left": left}):
        with pytest.raises(DataError, match=message):
            arrays_in_order(images, TWO, ["left", "extra"])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_every_kind_of_real_number_becomes_float32(dtype: type) -> None:
    arrays = {"left": np.ones((2, 2, 2, 1), dtype), "extra": np.zeros((2, 5), dtype)}
    check_arrays(arrays, TWO)
    found = finite_arrays(arrays)
    assert [array.dtype for array in found] == [np.float32, np.float32]
    assert values(found) == [1, 0]


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f4"), (np.inf, "f2"), (1e300, "f8")])
def test_values_that_are_not_finite_in_float32_are_refused(value: float, dtype: str) -> None:
    extra = EXTRA.astype(dtype)
    extra[0, 1] = extra[0, 3] = extra[2, 0] = value
    with pytest.raises(DataError, match="NaN or Inf in 2 of 3 images of input 'extra'"):
        finite_arrays({"left": LEFT, "extra": extra})


def test_messages_name_the_file() -> None:
    with pytest.raises(DataError, match=r"^'a\.npz' must have the shape"):
        check_arrays({"extra": EXTRA[:, :1]}, TWO, "'a.npz'")
    with pytest.raises(DataError, match=r"^'a\.npz' must be finite"):
        finite_arrays({"extra": EXTRA * np.float32(np.nan)}, "'a.npz'")


def test_a_batch_is_filled_up_with_its_last_image() -> None:
    images = np.array([[1, 2], [3, 4]])
    assert filled_batch(images, 4).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert filled_batch(images, 2).tolist() == images.tolist()
