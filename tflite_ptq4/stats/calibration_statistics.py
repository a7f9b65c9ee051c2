"""The statistics of all tensors of one model, with what they belong to, and their file."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.errors import FileFormatError, StatisticsError
from tflite_ptq4.stats.histogram import BIN_COUNT
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

FORMAT_NAME = "tflite-ptq4 calibration statistics"
FORMAT_VERSION = 1

_ROW_FIELDS = tuple(f.name for f in fields(TensorStatistics) if f.name != "histogram")


@dataclass(frozen=True)
class CalibrationStatistics(Mapping[str, TensorStatistics]):
    """A read-only mapping from tensor name to its statistics over the calibration images.

    Attributes:
        images: number of images seen.
        fingerprint: hash of the model that was calibrated, its weights and input sizes, as the
            caller defines it. Statistics of another model must not be merged into these.
        tensors: the mapping itself, in the model's order.
    """

    images: int
    fingerprint: str
    tensors: Mapping[str, TensorStatistics]

    def __post_init__(self) -> None:
        """Copy the mapping, and refuse what is not a count or not statistics."""
        object.__setattr__(self, "tensors", dict(self.tensors))
        if self.images < 0:
            raise StatisticsError(
                f"The number of calibration images must be >= 0, received {self.images}."
            )
        for name, tensor in self.tensors.items():
            if not isinstance(tensor, TensorStatistics):
                raise StatisticsError(
                    f"The statistics of tensor {name!r} must be a TensorStatistics, received "
                    f"{type(tensor).__name__}. Use TensorStatistics.from_array for an array."
                )

    def __getitem__(self, name: str) -> TensorStatistics:
        """Return the statistics of the tensor `name`."""
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the tensor names, in the model's order."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)

    def merge(self, other: CalibrationStatistics) -> CalibrationStatistics:
        """Return the statistics of the images of both, see `TensorStatistics.merge`.

        Args:
            other: statistics of the same model over other images.

        Raises:
            StatisticsError: the fingerprints, the tensor names or a tensor's channels differ; the
                message says which.
        """
        difference = self._difference_from(other)
        if difference:
            raise StatisticsError(
                f"Statistics must come from the same model to be merged: {difference}. "
                "Calibrate all shards with the same model file."
            )
        return CalibrationStatistics(
            images=self.images + other.images,
            fingerprint=self.fingerprint,
            tensors={name: self[name].merge(other[name]) for name in self},
        )

    def _difference_from(self, other: CalibrationStatistics) -> str | None:
        if self.fingerprint != other.fingerprint:
            return f"the fingerprints are {self.fingerprint!r} and {other.fingerprint!r}"
        if self.keys() != other.keys():
            left, right = sorted(self.keys() - other.keys()), sorted(other.keys() - self.keys())
            return f"only one has the tensors {left}, only the other has {right}"
        for name in self:
            if self[name].channels != other[name].channels:
                return (
                    f"tensor {name!r} has {self[name].channels} channels in one and "
                    f"{other[name].channels} in the other"
                )
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to `path`, the same bytes for equal statistics.

        The file is a compressed `.npz` without pickles: one array per field, the channels of all
        tensors one after the other, and of the histograms only the bins that are not empty.

        Raises:
            OutputError: the file could not be written; an older file there is unchanged.
        """
        tensors = list(self.values())
        position, count = _occupied(tensors)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            format_name=np.array(FORMAT_NAME),
            format_version=np.array(FORMAT_VERSION),
            images=np.array(self.images),
            fingerprint=np.array(self.fingerprint),
            names=np.array(list(self), dtype=np.str_),
            channels=np.array([tensor.channels for tensor in tensors], dtype=np.int64),
            histogram_position=position,
            histogram_count=count,
            **{name: _concatenated(tensors, name) for name in _ROW_FIELDS},
        )
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationStatistics:
        """Read statistics that `save` wrote.

        Raises:
            FileFormatError: there is no readable file, it is not one of these files, is of another
                format version, or is cut off or corrupt.
        """
        try:
            return _parsed(_read_arrays(Path(path).read_bytes()))
        except OSError as error:
            reason: Exception | str = error.strerror or error
            raise _not_statistics(path, reason) from error
        except _CORRUPTIONS as error:
            raise _not_statistics(path, error) from error


_CORRUPTIONS = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    StatisticsError,
    TypeError,
    ValueError,
)


def _not_statistics(path: str | os.PathLike[str], reason: Exception | str) -> FileFormatError:
    return FileFormatError(
        f"A statistics file must be one that this package saved: {os.fspath(path)!r} cannot be "
        f"read ({reason}). Gather the statistics again."
    )


def _read_arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("it is not a complete .npz archive")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    # NumPy hands out a member without the .npy signature as raw bytes.
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a member of the archive is not an array")
    return arrays


def _parsed(arrays: Mapping[str, NDArray[np.generic]]) -> CalibrationStatistics:
    format_name, version = arrays["format_name"].item(), arrays["format_version"].item()
    if (format_name, version) != (FORMAT_NAME, FORMAT_VERSION):
        raise ValueError(
            f"its format is {format_name!r} version {version!r}, this package reads "
            f"{FORMAT_NAME!r} version {FORMAT_VERSION}"
        )
    names, channels = arrays["names"].tolist(), arrays["channels"]
    rows = int(channels.sum())
    if len(set(names)) != channels.size or (channels < 0).any():
        raise ValueError("its tensor names and channel numbers do not fit together")
    if any(arrays[field].shape != (rows,) for field in _ROW_FIELDS):
        raise ValueError("its arrays do not have one entry per channel")
    ends = np.cumsum(channels)
    histograms = _histograms(arrays["histogram_position"], arrays["histogram_count"], ends)
    tensors = {}
    for name, size, end in zip(names, channels, ends, strict=True):
        part = {field: arrays[field][end - size : end] for field in _ROW_FIELDS}
        tensors[name] = TensorStatistics(**part, histogram=next(histograms))
    return CalibrationStatistics(
        images=arrays["images"].item(), fingerprint=arrays["fingerprint"].item(), tensors=tensors
    )


def _occupied(
    tensors: Iterable[TensorStatistics],
) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
    """The bins that are not empty, numbered through all tensors, and the counts in them."""
    empty = TensorStatistics.empty(0).histogram
    positions, counts, before = [np.empty(0, np.int64)], [empty.ravel()], 0
    for tensor in tensors:
        histogram = tensor.histogram.ravel()
        position = np.flatnonzero(histogram)
        positions.append(before + position)
        counts.append(histogram[position])
        before += histogram.size
    return np.concatenate(positions), np.concatenate(counts)


def _histograms(
    position: NDArray[np.generic], count: NDArray[np.generic], ends: NDArray[np.int64]
) -> Iterator[NDArray[np.integer]]:
    """From what `_occupied` returned to the histograms, of tensors whose channels end at `ends`."""
    bins = BIN_COUNT * int(ends[-1]) if len(ends) else 0
    if position.shape != count.shape or (position < 0).any() or (np.diff(position) <= 0).any():
        raise ValueError("its histogram positions are not ascending, one for each count")
    if (position >= bins).any():
        raise ValueError(f"its histogram positions go beyond the bounds of its {bins} bins")
    first = 0
    for end in ends:
        last = int(end) * BIN_COUNT
        here = slice(*np.searchsorted(position, [first, last]))
        histogram = np.zeros(last - first, count.dtype)
        histogram[position[here] - first] = count[here]
        yield histogram.reshape(-1, BIN_COUNT)
        first = last


def _concatenated(tensors: list[TensorStatistics], field: str) -> NDArray[np.generic]:
    first = getattr(TensorStatistics.empty(0), field)
    return np.concatenate([first, *(getattr(tensor, field) for tensor in tensors)])
