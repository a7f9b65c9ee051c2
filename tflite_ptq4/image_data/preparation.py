"""What happens to an image between the disk and the network: decode, resize, crop, normalise."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tflite_ptq4.errors import DataError
from tflite_ptq4.input_shapes import size_text

# What damaged pictures make Pillow raise; it differs from format to format.
_DECODING_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, eq=False)
class Preparation:
    """Resize, centre crop and `(pixel - mean) / std`, in this order.

    Attributes:
        resize: length that the short side gets (bilinear with antialiasing), in pixels, or None.
        crop: side of the centred square that is kept, in pixels, or None.
        mean, std: one number, or one per channel; in units of a pixel (0 to 255 for pictures).

    Raises:
        DataError: a size below one pixel, or a mean or deviation that cannot normalise.
    """

    resize: int | None = None
    crop: int | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and size < 1:
                raise DataError(
                    f"`{name}` must be at least 1 pixel. Received: {size}. Leave it out to keep "
                    "the size."
                )
        for name, value in (("mean", self.mean), ("std", self.std)):
            array = np.asarray(value, np.float64)
            if array.ndim > 1 or array.size not in (1, 3) or not np.isfinite(array).all():
                raise DataError(
                    f"`{name}` must be one finite number, or three, one per channel. "
                    f"Received: {value}. Give what the network was trained with."
                )
        if (np.asarray(self.std) <= 0).any():
            raise DataError(
                f"`std` must be above zero. Received: {self.std}. Give what the network was "
                "trained with."
            )

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Return `(pixels - mean) / std`: any number array [..., C] to float32 [..., C].

        Raises:
            DataError: `mean` or `std` are for another number of channels.
        """
        channels = max(np.size(self.mean), np.size(self.std))
        if channels > 1 and pixels.shape[-1] != channels:
            raise DataError(
                f"`mean` and `std` must be one number or one per channel: the images have "
                f"{pixels.shape[-1]} channels. Received: mean {self.mean}, std {self.std}. Give "
                "one number for all channels."
            )
        mean, std = (np.asarray(value, np.float32) for value in (self.mean, self.std))
        return (pixels.astype(np.float32) - mean) / std

    def read_picture(self, path: Path, channels: int) -> np.ndarray:
        """Decode, resize and crop a picture: uint8 [H, W, channels], grey or RGB.

        Raises:
            DataError: the file is no picture with 8 bits per channel, or smaller than the crop.
        """
        try:
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {file.mode}")
                picture = file.convert("L" if channels == 1 else "RGB")
        except _DECODING_ERRORS as error:
            raise DataError(
                f"{str(path)!r} must be a picture with 8 bits per channel, but cannot be decoded "
                f"({error}). Repair it or take it out of the folder."
            ) from error
        return self._cropped(self._resized(picture), str(path))

    def prepare_array(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Resize and crop images [N, H, W, C] of one size; `name` is the file they are from.

        Raises:
            DataError: a resize of anything but uint8 in grey or RGB, or a crop that is too large.
        """
        if self.resize is not None:
            channels = pixels.shape[-1]
            if pixels.dtype != np.uint8 or channels not in (1, 3):
                raise DataError(
                    f"`resize` needs uint8 images with 1 or 3 channels. {name!r} holds "
                    f"{pixels.dtype} with {channels}: resize them before they are saved."
                )
            images = pixels[..., 0] if channels == 1 else pixels
            pixels = np.stack([self._resized(Image.fromarray(image)) for image in images])
        return self._cropped(pixels, name)

    def _resized(self, picture: Image.Image) -> np.ndarray:
        """Return the pixels [H, W, C] after the short side has become `resize`."""
        if self.resize is not None:
            scale = self.resize / min(picture.size)
            width, height = (max(self.resize, round(side * scale)) for side in picture.size)
            if (width, height) != picture.size:
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]

    def _cropped(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Keep the centred square of [..., H, W, C]."""
        if self.crop is None:
            return pixels
        height, width = pixels.shape[-3:-1]
        if self.crop > min(height, width):
            raise DataError(
                f"`crop` must not be larger than the image: {name!r} is "
                f"{size_text(pixels.shape[-3:])}, the crop {self.crop}. "
                "Enlarge it first with --resize."
            )
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        return pixels[..., top : top + self.crop, left : left + self.crop, :]
