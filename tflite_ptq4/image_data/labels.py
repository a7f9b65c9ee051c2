"""Class labels of a folder of images: a table, class sub-folders, or the file names.

The first of these that is there decides:

1. `labels.csv` in the folder, with the columns `file,label` (file: path within the folder);
2. at least two class sub-folders. Names that are whole numbers are the labels themselves
   (`0/`, `7/`); other names are counted in sorted order (`cat/` is 0, `dog/` is 1);
3. a leading `<index>_` in every file name (`0207_golden_retriever.jpg` is 207).

Otherwise the images have no labels.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tflite_ptq4.errors import DataError

LABEL_TABLE = "labels.csv"
_LEADING_INDEX = re.compile(r"(\d+)_")


def folder_labels(folder: Path, names: Sequence[str]) -> np.ndarray | None:
    """Return the label of each image of a folder.

    Args:
        folder: the folder of images.
        names: all images of the folder, as POSIX paths within it.

    Returns:
        int64 [len(names)], or None where nothing tells the classes.

    Raises:
        DataError: `labels.csv` cannot be read, or has no label for one of the images.
    """
    table = folder / LABEL_TABLE
    if table.is_file():
        return _labels_from_table(table, names)
    labels = _labels_from_sub_folders(names)
    return _labels_from_names(names) if labels is None else labels


def _labels_from_table(table: Path, names: Sequence[str]) -> np.ndarray:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{str(table)!r} must be a readable table of file,label: {error}. Save it as UTF-8."
        ) from error
    if rows and [cell.strip().lower() for cell in rows[0]] == ["file", "label"]:
        rows = rows[1:]
    labels: dict[str, int] = {}
    for row in rows:
        try:
            name, text = row
            label = int(text)
        except ValueError as error:
            raise DataError(
                f"Every row of {str(table)!r} must be file,label with a whole number as label. "
                f"Received: {','.join(row)!r}. Correct that row."
            ) from error
        name = PurePosixPath(name.strip()).as_posix()
        if labels.setdefault(name, label) != label:
            raise DataError(
                f"{str(table)!r} must give one label per image, but gives {labels[name]} and "
                f"{label} for {name!r}. Remove one of the rows."
            )
    missing = [name for name in names if name not in labels]
    if missing:
        raise DataError(
            f"{str(table)!r} must hold a label for every image, but has none for {missing[0]!r} "
            f"({len(missing)} of {len(names)} images). Add the rows, or remove the table."
        )
    return np.array([labels[name] for name in names], np.int64)


def _labels_from_sub_folders(names: Sequence[str]) -> np.ndarray | None:
    parts = [PurePosixPath(name).parts for name in names]
    if any(len(part) < 2 for part in parts):
        return None
    classes = sorted({part[0] for part in parts})
    if len(classes) < 2:
        return None
    numbered = all(name.isascii() and name.isdigit() for name in classes)
    index = {name: int(name) if numbered else i for i, name in enumerate(classes)}
    return np.array([index[part[0]] for part in parts], np.int64)


def _labels_from_names(names: Sequence[str]) -> np.ndarray | None:
    matches = [_LEADING_INDEX.match(PurePosixPath(name).name) for name in names]
    if not all(matches):
        return None
    return np.array([int(match[1]) for match in matches if match], np.int64)
