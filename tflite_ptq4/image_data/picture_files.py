"""The pictures of a folder: which there are, and each of them decoded when it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tflite_ptq4.errors import DataError
from tflite_ptq4.image_data.preparation import Preparation
from tflite_ptq4.input_shapes import size_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Pictures of a folder that behave like a float32 array [N, H, W, C] under slicing.

    `files[a:b]` decodes and prepares exactly those pictures. Errors name the file.
    """

    folder: Path
    names: tuple[str, ...]
    channels: int
    preparation: Preparation
    image_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self.names), *self.image_shape)

    @property
    def dtype(self) -> np.dtype:
        """float32, what every picture becomes."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.names)

    def __getitem__(self, index: slice) -> np.ndarray:
        """Decode the pictures of a slice: float32 [n, H, W, C]."""
        names = self.names[index]
        images = np.empty((len(names), *self.image_shape), np.float32)
        for image, name in zip(images, names, strict=True):
            pixels = self.preparation.read_picture(self.folder / name, self.channels)
            if pixels.shape != self.image_shape:
                raise DataError(
                    f"All images must have one size: {str(self.folder / self.names[0])!r} is "
                    f"{size_text(self.image_shape)}, {str(self.folder / name)!r} is "
                    f"{size_text(pixels.shape)}. Bring them to one size with --resize and --crop."
                )
            image[...] = self.preparation.normalise(pixels)
        return images


def picture_names(folder: Path) -> list[str]:
    """Return the pictures in a folder and below it, as paths within it, sorted.

    Raises:
        DataError: there is none, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"The folder of images must be readable: {error}. Let this user read it."
        ) from error

    names = sorted(
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder, onerror=refuse)
        for name in files
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    if not names:
        raise DataError(
            f"The folder {str(folder)!r} must hold images ({', '.join(IMAGE_SUFFIXES)}), "
            "but there is none in it or below it. Name another folder."
        )
    return names
