"""Photographs that ship inside PyPI packages, cut into crops, in place of images of one's own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from PIL import Image

# Distribution -> where its pictures lie. They are found as files, so that neither is imported.
FOLDERS = {"scikit-image": "skimage/data", "scikit-learn": "sklearn/datasets/images"}
CALIBRATION = (
    ("scikit-image", "astronaut.png"),
    ("scikit-image", "brick.png"),
    ("scikit-image", "coins.png"),
    ("scikit-image", "grass.png"),
    ("scikit-image", "gravel.png"),
    ("scikit-image", "motorcycle_left.png"),
    ("scikit-image", "rocket.jpg"),
    ("scikit-learn", "china.jpg"),
)
# Things that ImageNet has classes for (a tripod, a cat, an espresso) and one that it has none for:
# where the float network itself cannot decide, agreement with it says little.
EVALUATION = (
    ("scikit-image", "camera.png"),
    ("scikit-image", "chelsea.png"),
    ("scikit-image", "coffee.png"),
    ("scikit-learn", "flower.jpg"),
)
# Square windows: side as a share of the short side, and where in the free space (0 left or top,
# 1 right or bottom).
WINDOWS = (
    (1.0, 0.5, 0.5),
    (0.75, 0.0, 0.0),
    (0.75, 1.0, 0.0),
    (0.75, 0.0, 1.0),
    (0.75, 1.0, 1.0),
    (0.5, 0.0, 0.5),
    (0.5, 0.5, 0.5),
    (0.5, 1.0, 0.5),
)


def packaged_file(package: str, path: str) -> Path:
    """Return where a file of an installed distribution lies, without importing the distribution.

    Raises:
        SystemExit: the distribution is not installed, or has no such file.
    """
    try:
        file = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise SystemExit(
            f"The example needs the package {package}: pip install --no-deps {package}"
        ) from error
    if not file.is_file():
        raise SystemExit(f"The package {package} has no file {path}: install it anew.")
    return file


def crops(photograph: Image.Image, size: int) -> list[Image.Image]:
    """Return one square crop [size, size] in RGB for each of `WINDOWS`."""
    photograph = photograph.convert("RGB")
    cut = []
    for share, right, down in WINDOWS:
        side = round(share * min(photograph.size))
        left = round(right * (photograph.width - side))
        top = round(down * (photograph.height - side))
        box = (left, top, left + side, top + side)
        cut.append(photograph.resize((size, size), Image.Resampling.BICUBIC, box))
    return cut


def write_crops(folder: Path, photographs: tuple[tuple[str, str], ...], size: int = 256) -> int:
    """Write the crops of the photographs (distribution, file name) as PNG; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for package, name in photographs:
        with Image.open(packaged_file(package, f"{FOLDERS[package]}/{name}")) as photograph:
            for i, crop in enumerate(crops(photograph, size)):
                crop.save(folder / f"{Path(name).stem}_{i}.png")
                count += 1
    return count
