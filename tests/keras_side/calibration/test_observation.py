"""The accumulator against numpy, on tensors given directly."""

from __future__ import annotations

from math import ceil, gcd, prod

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side.calibration import observation
from tflite_ptq4.keras_side.calibration.observation import TensorAccumulator, sampling_strides
from tflite_ptq4.stats.tensor_statistics import TensorStatistics


def gathered(
    values: dict[str, np.ndarray], *, nonnegative: frozenset[str] = frozenset(), batch: int = 2
) -> TensorAccumulator:
    shapes = {name: (None, *array.shape[1:]) for name, array in values.items()}
    accumulator = TensorAccumulator(shapes, nonnegative)
    for start in range(0, len(next(iter(values.values()))), batch):
        accumulator.update(
            {name: tf.constant(array[start : start + batch]) for name, array in values.items()}
        )
    return accumulator


def sampled_rows(values: np.ndarray, stride: int) -> np.ndarray:
    """Every stride-th position of each image."""
    rows = values.reshape(len(values), -1, values.shape[-1])
    return rows[:, ::stride].reshape(-1, values.shape[-1])


VALUES = {
    "normal": lambda rng: rng.normal(size=(5, 4, 3, 2)),
    "features": lambda rng: rng.normal(size=(5, 7)),
    "rows": lambda rng: rng.normal(size=(5, 6, 2)),
    "volume": lambda rng: rng.normal(size=(5, 2, 3, 2, 2)),
    "tiny and huge": lambda rng: rng.choice([-1e-12, 1e-12, 3e10, -3e10, 0.0], size=(5, 4, 3, 2)),
    "beyond the bins": lambda rng: rng.choice([1e11, -1e11, 2.0**-33], size=(5, 4, 3, 2)),
    "all zero": lambda rng: np.zeros((5, 4, 3, 2)),
    "negative zero": lambda rng: np.full((5, 4, 3, 2), -0.0),
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_sums_and_histogram_are_those_of_numpy(make, rng: np.random.Generator) -> None:
    values = make(rng).astype(np.float32)
    accumulator = gathered({"x": values, "relu": np.abs(values)}, nonnegative=frozenset({"relu"}))
    assert accumulator.images == 5
    for name, array in (("x", values), ("relu", np.abs(values))):
        found, exact = accumulator.result()[name], TensorStatistics.from_array(array)
        for field in ("count", "minimum", "maximum", "positive_count", "histogram"):
            np.testing.assert_array_equal(getattr(found, field), getattr(exact, field), field)
        size = np.abs(array).max()
        for field in ("mean", "std", "positive_mean"):
            np.testing.assert_allclose(
                getattr(found, field), getattr(exact, field), atol=2e-3 * size, err_msg=field
            )


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-5), (10, 5e-4), (100, 5e-2)])
def test_deviations_survive_a_mean_far_from_zero(
    rng: np.random.Generator, mean: float, tolerance: float
) -> None:
    """Sums of one batch are float32: the variance errs by a few 1e-6 of the squared mean."""
    values = rng.normal(mean, 1, (64, 16, 16, 2)).astype(np.float32)
    found = gathered({"x": values}, batch=32).result()["x"]
    exact = values.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=tolerance)


@settings(max_examples=25)
@given(
    tensors=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40)),
        min_size=1,
        max_size=6,
    ),
    limit=st.sampled_from([10, 1000, 50_000]),
)
def test_a_sample_stays_within_its_bound(tensors: list, limit: int) -> None:
    shapes = {str(i): (None, *shape) for i, shape in enumerate(tensors)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observation, "SAMPLED_ELEMENTS", limit)
        strides = sampling_strides(shapes)
    sizes = {n: (ceil(prod(s[1:-1]) / strides[n]), s[-1]) for n, s in shapes.items()}
    sampled = sum(rows * channels for rows, channels in sizes.values())
    # At least one position of each tensor is read, however many tensors there are.
    assert sampled <= limit or all(rows <= 2 for rows, _ in sizes.values())
    for name, shape in shapes.items():
        assert strides[name] == 1 or gcd(strides[name], shape[2]) == 1
    if sum(prod(shape) for shape in tensors) <= limit:
        assert set(strides.values()) == {1}


def test_open_sides_and_features_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "SAMPLED_ELEMENTS", 1)
    shapes = {"open": (None, None, 8, 3), "features": (None, 500), "fixed": (None, 8, 8, 3)}
    strides = sampling_strides(shapes)
    assert (strides["open"], strides["features"]) == (1, 1)
    assert strides["fixed"] > 1


def test_a_large_tensor_is_sampled_and_its_range_is_not(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "SAMPLED_ELEMENTS", 200)
    values = rng.normal(size=(5, 9, 8, 3)).astype(np.float32)
    small = rng.normal(size=(5, 4)).astype(np.float32)
    shapes = {"large": (None, 9, 8, 3), "small": (None, 4)}
    stride = sampling_strides(shapes)["large"]
    assert stride > 1
    between = divmod(stride + 1, 8)  # a position that is not in the sample
    values[3, *between, 1], values[2, *between, 0] = 50.0, -40.0
    found = gathered({"large": values, "small": small}).result()
    sample = TensorStatistics.from_array(sampled_rows(values, stride))
    np.testing.assert_array_equal(found["large"].histogram, sample.histogram)
    np.testing.assert_array_equal(found["large"].count, sample.count)
    np.testing.assert_allclose(found["large"].mean, sample.mean, atol=1e-6)
    assert found["large"].maximum[1] == 50
    assert found["large"].minimum[0] == -40
    assert (sample.maximum < 50).all() and (sample.minimum > -40).all()
    np.testing.assert_array_equal(
        found["small"].histogram, TensorStatistics.from_array(small).histogram
    )


def test_a_sample_reaches_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "SAMPLED_ELEMENTS", 300)
    stride = sampling_strides({"x": (None, 32, 32, 2)})["x"]
    assert stride > 1
    assert set(np.arange(0, 32 * 32, stride) % 32) == set(range(32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0, 0, 0), (1, 3, 4, 1), (2, 7, 7, 2)])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    position: tuple[int, ...],
) -> None:
    monkeypatch.setattr(observation, "SAMPLED_ELEMENTS", 40)
    fine = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    broken = fine.copy()
    broken[position] = value
    assert gathered({"a": fine, "b": fine}).first_not_finite() is None
    assert gathered({"a": fine, "b": broken, "c": broken}).first_not_finite() == "b"
    assert gathered({"a": broken, "b": fine}).first_not_finite() == "a"


def test_no_batch_is_refused() -> None:
    accumulator = TensorAccumulator({"x": (None, 3)}, frozenset())
    assert accumulator.images == 0
    with pytest.raises(StatisticsError, match="at least one batch"):
        accumulator.result()
