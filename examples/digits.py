"""Handwritten digits that ship inside the PyPI package scikit-learn: small images to train on."""

from __future__ import annotations

import numpy as np
from photographs import packaged_file

DIGITS = ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")
TEST_IMAGES = 500


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return 1,297 images [N, 8, 8, 1] in [0, 1] with labels [N] to train, and 500 to test.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998).
    """
    table = np.loadtxt(packaged_file(*DIGITS), delimiter=",", dtype=np.float32)
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1) / 16, table[:, -1].astype(np.int64)
    test = slice(len(images) - TEST_IMAGES, None)
    train = slice(len(images) - TEST_IMAGES)
    return images[train], labels[train], images[test], labels[test]
