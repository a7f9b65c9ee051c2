"""Images for calibration and evaluation, from files: arrays, or folders of pictures."""

from __future__ import annotations

from tflite_ptq4.image_data.image_sets import (
    ImageSet,
    load_images,
    load_inputs,
    require_images,
)

__all__ = ["ImageSet", "load_images", "load_inputs", "require_images"]
