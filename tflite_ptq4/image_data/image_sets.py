"""Images for calibration and evaluation: from arrays on disk, or from a folder of pictures.

An array file holds `x` [N, H, W, C] and, in an `.npz`, optionally the labels `y` [N]; for a network
of several inputs an `.npz` holds an array for each, by name. What is no image, such as sound
[N, length, channels], is an array in the same way. A folder is read recursively in sorted
order; what its labels are taken from says `labels.py`. Pictures of a folder are decoded when
they are used, not before, so a large folder costs no memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from tflite_ptq4.errors import DataError
from tflite_ptq4.image_count import evenly_spread
from tflite_ptq4.image_data.array_files import ONLY_ARRAY, read_arrays
from tflite_ptq4.image_data.labels import folder_labels
from tflite_ptq4.image_data.picture_files import PictureFiles, picture_names
from tflite_ptq4.image_data.preparation import Preparation
from tflite_ptq4.input_arrays import Images, check_arrays, finite_arrays
from tflite_ptq4.input_shapes import Shape, size_text

LABELS = "y"  # the key of the labels in an `.npz` file


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images that are ready for a network.

    Attributes:
        images: for each input of the network float32 [N, ...] under slicing: an array, or pictures
            decoded on demand; `images[0][:]` is an array in both cases.
        labels: int64 [N], or None where nothing tells the classes.
        names: N names for messages: the file within its folder, or `x[3]`.
    """

    images: tuple[Images, ...]
    labels: np.ndarray | None
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def named(self, inputs: Iterable[str]) -> dict[str, Images]:
        """Return the images by the names of the inputs that they were read for, in their order."""
        return dict(zip(inputs, self.images, strict=True))


def load_images(
    path: str | os.PathLike[str],
    *,
    samples: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    input_shape: Sequence[int | None] | None = None,
) -> ImageSet:
    """Read images and labels of one input: an `.npy` or `.npz` file, or a folder of pictures.

    Args:
        path: the file or folder.
        samples: how many images to take, evenly spread over the (sorted) set, the same ones each
            time; None for all. Of a folder, only these are decoded.
        resize: length that the short side gets, in pixels; arrays must then be uint8.
        crop: side of the centred square that is kept, in pixels.
        mean: of `(pixel - mean) / std`; one number, or three, one per channel.
        std: the same, above zero.
        input_shape: (H, W, C) of the network's input, None where it takes any size. A network
            with one input channel gets pictures in grey.

    Returns:
        The images in float32 with labels and names.

    Raises:
        DataError: the path is missing or empty, an image is broken or of another size, the shape
            is not the network's, a value is NaN or infinite, or labels do not fit.
    """
    path = Path(path)
    preparation = Preparation(resize=resize, crop=crop, mean=mean, std=std)
    shape = tuple(input_shape) if input_shape is not None else (None, None, None)
    if len(shape) != 3:
        raise DataError(
            f"The network must take images [height, width, channels], but takes {shape}. Give "
            "such a network its arrays in Python."
        )
    if path.is_dir():
        return _load_folder(path, samples, preparation, shape)
    require_images(path)
    return _load_arrays(path, samples, preparation, shape)


def require_images(path: Path) -> None:
    """Refuse a file or folder of images that does not exist.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(
            f"Images must exist: there is no file or folder {str(path)!r}. Name an .npz or .npy "
            "file, or a folder of pictures."
        )


def load_inputs(
    path: str | os.PathLike[str], input_shapes: Mapping[str, Shape], *, samples: int | None = None
) -> ImageSet:
    """Read what a network of several inputs takes, or of one that is no image, and labels.

    Args:
        path: an `.npz` file; it holds an array for each input, under the input's name, prepared as
            the network expects them, and optionally the labels under `y`. That of an only input
            may be called `x`, or be an `.npy` file.
        input_shapes: for each input its shape without the batch axis, None for any length.
        samples: as in `load_images`.

    Returns:
        The arrays in float32, in the order of `input_shapes`, with labels and names.

    Raises:
        DataError: the path is missing or a folder, an input has no array or an array no input, or
            one cannot be used: empty, of another shape or length, not finite.
    """
    path = Path(path)
    names = ", ".join(input_shapes)
    if path.is_dir():
        raise DataError(_why_no_folder(path, input_shapes))

    def choose(found: Sequence[str]) -> Sequence[str]:
        alone = len(input_shapes) == 1 and ONLY_ARRAY in found
        wanted = {ONLY_ARRAY} if alone else set(input_shapes)
        if set(found) not in (wanted, {*wanted, LABELS}):
            raise DataError(
                f"{str(path)!r} must hold an array for each input of the network ({names}), and "
                f"may hold labels under `{LABELS}`. It holds: {', '.join(found) or 'nothing'}. "
                "Name the arrays after the inputs."
            )
        return found

    arrays = read_arrays(path, choose)
    labels = None if LABELS in input_shapes else arrays.pop(LABELS, None)
    if len(input_shapes) == 1:
        arrays = dict(zip(input_shapes, arrays.values(), strict=True))
    arrays = {name: arrays[name] for name in input_shapes}
    check_arrays(arrays, input_shapes, repr(str(path)))
    total = len(next(iter(arrays.values())))
    labels = None if labels is None else _checked_labels(labels, total, path)
    chosen = evenly_spread(total, samples)
    images = finite_arrays({name: array[chosen] for name, array in arrays.items()}, repr(str(path)))
    numbers = tuple(f"[{i}]" for i in chosen)
    return ImageSet(images, None if labels is None else labels[chosen], numbers)


def _why_no_folder(folder: Path, input_shapes: Mapping[str, Shape]) -> str:
    names = ", ".join(input_shapes)
    if len(input_shapes) > 1:
        return (
            f"A folder of pictures gives images of one input, but the network has "
            f"{len(input_shapes)} ({names}), and which picture belongs to which is not said. "
            f"Received: {str(folder)!r}. Save an .npz file with an array for each input."
        )
    (shape,) = input_shapes.values()
    return (
        "A folder of pictures gives images [height, width, channels], but the network's input "
        f"{names!r} takes {size_text(shape)}. Received: {str(folder)!r}. Save an array "
        f"[n, {', '.join(map(str, shape))}] as an .npy file."
    )


def _load_folder(
    folder: Path,
    samples: int | None,
    preparation: Preparation,
    input_shape: tuple[int | None, ...],
) -> ImageSet:
    names = picture_names(folder)
    chosen = evenly_spread(len(names), samples)
    labels = folder_labels(folder, names)
    taken = tuple(names[i] for i in chosen)
    channels = 1 if input_shape[-1] == 1 else 3
    # What all pictures would be refused for is said now, not when the first is used.
    first = preparation.read_picture(folder / taken[0], channels)
    _check_shape(first.shape, input_shape, str(folder / taken[0]))
    preparation.normalise(first)
    shape = cast(tuple[int, int, int], first.shape)
    pictures = PictureFiles(folder, taken, channels, preparation, shape)
    return ImageSet((pictures,), None if labels is None else labels[chosen], taken)


def _load_arrays(
    path: Path,
    samples: int | None,
    preparation: Preparation,
    input_shape: tuple[int | None, ...],
) -> ImageSet:
    pixels, labels = _read_images(path)
    if pixels.dtype.kind not in "uif":
        raise DataError(
            f"Images in {str(path)!r} must be numbers. Received: {pixels.dtype}. Save them as "
            "uint8 or float32."
        )
    if pixels.ndim == 3 and input_shape[-1] == 1:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4:
        raise DataError(
            f"Images in {str(path)!r} must be an array [N, height, width, channels]. "
            f"Received: shape {pixels.shape}. Reshape them before they are saved."
        )
    total = len(pixels)
    if total == 0:
        raise DataError(
            f"{str(path)!r} must hold at least one image, but holds none. Name another file."
        )
    labels = None if labels is None else _checked_labels(labels, total, path)
    chosen = evenly_spread(total, samples)
    pixels = pixels[chosen]
    pixels = preparation.prepare_array(pixels, str(path))
    _check_shape(pixels.shape[1:], input_shape, str(path))
    with np.errstate(over="ignore", invalid="ignore"):
        images = preparation.normalise(pixels)
    broken = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if broken.size:
        raise DataError(
            f"Images must be finite: image {chosen[broken[0]]} of {str(path)!r} holds NaN or "
            f"infinity ({broken.size} of {len(images)} images do). Leave them out."
        )
    names = tuple(f"x[{i}]" for i in chosen)
    return ImageSet((images,), None if labels is None else labels[chosen], names)


def _read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (x, y or None) of an `.npy` or `.npz` file."""

    def choose(names: Sequence[str]) -> list[str]:
        if ONLY_ARRAY not in names:
            raise DataError(
                f"{str(path)!r} must hold the images under the key `{ONLY_ARRAY}` (and labels "
                f"under `{LABELS}`). It holds: {', '.join(names) or 'nothing'}. Save it with "
                f"numpy.savez(path, {ONLY_ARRAY}=images)."
            )
        return [name for name in (ONLY_ARRAY, LABELS) if name in names]

    arrays = read_arrays(path, choose)
    return arrays[ONLY_ARRAY], arrays.get(LABELS)


def _checked_labels(labels: np.ndarray, total: int, path: Path) -> np.ndarray:
    if labels.shape == (total, 1):
        labels = labels[:, 0]
    if labels.shape != (total,) or labels.dtype.kind not in "ui":
        raise DataError(
            f"Labels `y` in {str(path)!r} must be {total} whole numbers, one per image. "
            f"Received: {labels.dtype} of shape {labels.shape}. Save the index of each class."
        )
    return labels.astype(np.int64)


def _check_shape(shape: tuple[int, ...], input_shape: tuple[int | None, ...], name: str) -> None:
    if any(want not in (None, got) for got, want in zip(shape, input_shape, strict=True)):
        raise DataError(
            f"The network takes images of {size_text(input_shape)} (height x width x channels), "
            f"but {name!r} gives {size_text(shape)}. Bring the images to that size with --resize "
            "and --crop."
        )
