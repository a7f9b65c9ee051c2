"""What calibration remembers of one tensor, channel by channel, in a form that merges exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.stats.histogram import BIN_COUNT, ZERO_BIN, bin_edges, channel_histogram

_INTEGER_FIELDS = ("count", "positive_count", "histogram")
_NEXT_STEP = "Gather the statistics again, or check that the shards come from this package."


class _OccupiedBins:
    """A field that is read as a whole histogram, and kept without the bins that all channels miss.

    Those of photographs fill about a sixth of the bins; histograms take most of the memory.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._bins, self._counts = f"_{name}_bins", f"_{name}_counts"

    def __get__(self, record: TensorStatistics | None, owner: type) -> NDArray[np.integer]:
        if record is None:  # a dataclass looks for a default value
            raise AttributeError("a histogram has no default")
        counts = getattr(record, self._counts)
        histogram = np.zeros((len(counts), BIN_COUNT), counts.dtype)
        histogram[:, getattr(record, self._bins)] = counts
        return _read_only(histogram)

    def __set__(self, record: TensorStatistics, value: ArrayLike) -> None:
        histogram = _stored("histogram", value, (np.size(record.count), BIN_COUNT))
        bins = np.flatnonzero(histogram.any(axis=0))
        vars(record)[self._bins] = bins
        vars(record)[self._counts] = np.ascontiguousarray(histogram[:, bins])


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Count, range, moments and histogram of each of the C channels of a tensor.

    The moments and the histogram may cover a regular sample of the tensor's positions; `count`
    says how many values they saw. The range covers every value. A channel that saw nothing has
    count 0, minimum +inf, maximum -inf and moments 0, which makes it the identity of `merge`.
    The arrays are read-only.

    Attributes:
        count: int64 [C], values in the moments and in the histogram.
        minimum: float64 [C], over all values.
        maximum: float64 [C], over all values.
        mean: float64 [C].
        m2: float64 [C], sum of (x - mean)^2.
        positive_count: int64 [C], values x > 0.
        positive_mean: float64 [C], E[x | x > 0], 0 where there are none.
        positive_m2: float64 [C], sum of (x - positive_mean)^2 over x > 0.
        histogram: int16, int32 or int64 [C, BIN_COUNT], the narrowest that holds it, made anew each
            time it is read; see `tflite_ptq4.stats.histogram`. A row sums to `count`.
    """

    count: NDArray[np.int64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    positive_count: NDArray[np.int64]
    positive_mean: NDArray[np.float64]
    positive_m2: NDArray[np.float64]
    histogram: NDArray[np.integer] = _OccupiedBins()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Convert to the stored types, and refuse what no tensor can have."""
        for field in fields(self):
            if field.name != "histogram":
                array = _stored(field.name, getattr(self, field.name), (np.size(self.count),))
                object.__setattr__(self, field.name, array)
        self._check_values()

    def _check_values(self) -> None:
        seen = self.count > 0
        histogram = self.histogram
        _require((self.count >= 0).all() and (histogram >= 0).all(), "counts must be >= 0")
        _require(
            bool(np.array_equal(histogram.sum(axis=1), self.count)),
            "every row of the histogram must sum to the channel's count",
        )
        _require(
            bool(((self.positive_count >= 0) & (self.positive_count <= self.count)).all()),
            "positive_count must lie in [0, count]",
        )
        for name in ("mean", "m2", "positive_mean", "positive_m2"):
            _require(np.isfinite(getattr(self, name)).all(), f"{name} must be finite")
        _require(
            bool(((self.m2 >= 0) & (self.positive_m2 >= 0)).all()),
            "the sums of squares m2 and positive_m2 must be >= 0",
        )
        _require(
            bool(np.isfinite(self.minimum[seen]).all() and np.isfinite(self.maximum[seen]).all()),
            "minimum and maximum must be finite where count > 0",
        )
        _require(
            bool((self.minimum[seen] <= self.maximum[seen]).all()), "minimum must be <= maximum"
        )
        _require(
            bool((self.minimum[~seen] == np.inf).all() and (self.maximum[~seen] == -np.inf).all()),
            "a channel of count 0 must have minimum +inf and maximum -inf",
        )

    def __eq__(self, other: object) -> bool:
        """Return whether every array is equal, bit for bit apart from the sign of zeros."""
        if not isinstance(other, TensorStatistics):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def empty(cls, channels: int) -> TensorStatistics:
        """Return the statistics of no values, the identity of `merge`."""
        return cls.from_array(np.empty((0, channels)))

    @classmethod
    def from_array(cls, x: ArrayLike) -> TensorStatistics:
        """Return the statistics of all values of an array.

        Args:
            x: real array [..., C], finite; the last axis is the channel. Read in float64, binned
                in float32.

        Raises:
            StatisticsError: there is no channel axis, or a value is NaN or infinite.
        """
        array = np.asarray(x)
        _require(array.ndim >= 1, "the tensor must have a channel axis, its shape is ()")
        rows = (
            array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, array.shape[-1])
        )
        values = rows.astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            row, channel = np.argwhere(~finite)[0]
            raise StatisticsError(
                f"A tensor must hold finite values to be calibrated: channel {channel} holds "
                f"{values[row, channel]} ({finite.size - int(finite.sum())} of {finite.size} "
                "values are not finite). Check the images and the model's float outputs."
            )
        positive = values > 0
        mean, m2 = _moments(values, np.ones_like(positive))
        positive_mean, positive_m2 = _moments(values, positive)
        return cls(
            count=np.full(values.shape[1], values.shape[0]),
            minimum=values.min(axis=0, initial=np.inf),
            maximum=values.max(axis=0, initial=-np.inf),
            mean=mean,
            m2=m2,
            positive_count=positive.sum(axis=0),
            positive_mean=positive_mean,
            positive_m2=positive_m2,
            histogram=channel_histogram(rows),
        )

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Return the statistics of the values of both, as one pass over all of them would.

        Exact in the counts, the range and the histogram; associative and commutative up to float64
        rounding in the moments.

        Args:
            other: statistics with the same number of channels.

        Raises:
            StatisticsError: the numbers of channels differ.

        Reference: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
        sample variances", 1979.
        """
        _require(
            self.channels == other.channels,
            "statistics must have the same channels to be merged, these have "
            f"{self.channels} and {other.channels}",
        )
        return _pooled(
            *(np.stack([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        )

    def per_tensor(self, weight: NDArray[np.float64] | None = None) -> TensorStatistics:
        """Return the statistics of all channels taken together, as one channel.

        Args:
            weight: float [C], >= 0, what a value of each channel counts; None for all the same. A
                channel then counts once for every 2^-16 of the mean weight, but once at least, as
                its range always counts.
        """
        together = {field.name: getattr(self, field.name)[:, None] for field in fields(self)}
        if weight is not None and np.any(weight > 0):
            times = np.maximum(np.rint(2.0**16 * weight / np.mean(weight)), 1.0).astype(np.int64)
            for name in ("count", "m2", "positive_count", "positive_m2", "histogram"):
                values = together[name]
                together[name] = values * times.reshape(-1, *[1] * (values.ndim - 1))
        return _pooled(**together)

    def rectified(self) -> TensorStatistics:
        """Return the statistics of max(x, 0): what a ReLU leaves of the tensor."""
        zeros = self.count - self.positive_count
        mean, m2 = _pooled_moments(
            np.stack([self.positive_count, zeros]),
            np.stack([self.positive_mean, np.zeros(self.channels)]),
            np.stack([self.positive_m2, np.zeros(self.channels)]),
        )
        histogram = self.histogram.astype(np.int64)
        histogram[:, ZERO_BIN] += histogram[:, :ZERO_BIN].sum(axis=1)
        histogram[:, :ZERO_BIN] = 0
        seen = self.count > 0
        return TensorStatistics(
            count=self.count,
            minimum=np.maximum(self.minimum, 0.0),
            maximum=np.where(seen, np.maximum(self.maximum, 0.0), self.maximum),
            mean=mean,
            m2=m2,
            positive_count=self.positive_count,
            positive_mean=self.positive_mean,
            positive_m2=self.positive_m2,
            histogram=histogram,
        )

    @property
    def channels(self) -> int:
        """The number of channels C."""
        return self.count.size

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation, sqrt(m2 / count), float64 [C]; NaN where count is 0."""
        return np.sqrt(_ratio(self.m2, self.count))

    @property
    def mean_abs_deviation(self) -> NDArray[np.float64]:
        """E|x - E x|, the Laplace scale b, float64 [C]; NaN where count is 0.

        From the histogram and the exact mean, the values of a bin taken as uniform in it: within
        1 % for smooth densities. The bound for any data is half a bin, 1/16 of E|x|.
        """
        # No value lies outside the range, so an atom at its end, as a ReLU6 makes, keeps its place.
        minimum, maximum, mean = self.minimum[:, None], self.maximum[:, None], self.mean[:, None]
        edges = np.clip(bin_edges(), minimum, np.maximum(minimum, maximum))
        low, high = edges[:, :-1] - mean, edges[:, 1:] - mean
        distance = np.abs(low + high) / 2
        split_row, split_bin = np.nonzero((low < 0) & (high > 0))
        below, above = low[split_row, split_bin], high[split_row, split_bin]
        distance[split_row, split_bin] = (below**2 + above**2) / (2 * (above - below))
        histogram = self.histogram
        distance[histogram == 0] = 0.0
        return _ratio((histogram * distance).sum(axis=1), self.count)


def _pooled(
    count: NDArray[np.int64],
    minimum: NDArray[np.float64],
    maximum: NDArray[np.float64],
    mean: NDArray[np.float64],
    m2: NDArray[np.float64],
    positive_count: NDArray[np.int64],
    positive_mean: NDArray[np.float64],
    positive_m2: NDArray[np.float64],
    histogram: NDArray[np.int64],
) -> TensorStatistics:
    """Merge records that are stacked along a first axis, all at once."""
    pooled_mean, pooled_m2 = _pooled_moments(count, mean, m2)
    pooled_positive_mean, pooled_positive_m2 = _pooled_moments(
        positive_count, positive_mean, positive_m2
    )
    return TensorStatistics(
        count=count.sum(axis=0),
        minimum=minimum.min(axis=0),
        maximum=maximum.max(axis=0),
        mean=pooled_mean,
        m2=pooled_m2,
        positive_count=positive_count.sum(axis=0),
        positive_mean=pooled_positive_mean,
        positive_m2=pooled_positive_m2,
        histogram=histogram.sum(axis=0),
    )


def _pooled_moments(
    count: NDArray[np.int64], mean: NDArray[np.float64], m2: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.maximum(count.sum(axis=0), 1)
    pooled_mean = (count / total * mean).sum(axis=0)
    pooled_m2 = (m2 + count * (mean - pooled_mean) ** 2).sum(axis=0)
    return pooled_mean, pooled_m2


def _moments(
    values: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sum of squared deviations of the masked values of every column."""
    mean = np.where(mask, values, 0.0).sum(axis=0) / np.maximum(mask.sum(axis=0), 1)
    return mean, np.square(np.where(mask, values - mean, 0.0)).sum(axis=0)


def _ratio(sums: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(sums, count, out=np.full(count.shape, np.nan), where=count > 0)


def _stored(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.generic]:
    array = np.asarray(value)
    dtype, kind = (np.int64, "iu") if name in _INTEGER_FIELDS else (np.float64, "fiu")
    if array.shape != shape or array.dtype.kind not in kind:
        raise StatisticsError(
            f"The statistics field {name!r} must be {np.dtype(dtype).name} of shape {shape}, "
            f"received {array.dtype.name} of shape {array.shape}. {_NEXT_STEP}"
        )
    if name == "histogram":
        lowest = min(int(array.min(initial=0)), -int(array.max(initial=0)) - 1)
        dtype = np.promote_types(np.min_scalar_type(lowest), np.int16)
    return _read_only(array.astype(dtype, copy=False))


def _read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


def _require(condition: bool | np.bool_, rule: str) -> None:
    if not condition:
        raise StatisticsError(f"In tensor statistics, {rule}. {_NEXT_STEP}")
