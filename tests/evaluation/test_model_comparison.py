from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tflite_ptq4.errors import DataError, ModelError
from tflite_ptq4.evaluation.model_comparison import compare_models
from tflite_ptq4.evaluation.open_models import OpenModel, OpenTensor
from tflite_ptq4.image_data import ImageSet

IMAGES = ImageSet(
    (np.arange(20, dtype=np.float32).reshape(10, 2),), None, tuple(map(str, range(10)))
)


def doubling(
    name: str, offset: float = 0.0, scale: float | None = None, extra: Sequence[str] = ()
) -> OpenModel:
    """Tensors x, 2 x and 2 x + offset, and as many more of three numbers as `extra` names."""
    names = ("x", "double", "sum", *extra)

    def run(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        (x,) = images
        rest = [np.zeros((len(x), 3), np.float32) for _ in extra]
        return [x, 2 * x, 2 * x + np.float32(offset), *rest]

    return OpenModel(
        name=name,
        input_shapes={"x": (2,)},
        tensors=tuple(OpenTensor(n, (n,), scale, None if scale is None else 0) for n in names),
        outputs={"output_0": 2},
        run=run,
    )


def test_each_layer_is_measured_over_all_images() -> None:
    found = compare_models(
        doubling("a"), doubling("b", 0.5, extra=["more"]), IMAGES, threshold_db=50.0
    )
    x, double, total = found.layers
    assert (x.sqnr_db, double.sqnr_db) == (np.inf, np.inf)
    assert x.equal and double.equal and not total.equal
    # Signal 4 * sum of squares of 0..19 = 4 * 2470, noise 20 * 0.25.
    assert total.sqnr_db == pytest.approx(10 * np.log10(4 * 2470 / 5))
    # The product is 4 * 2470 + 0.5 * 2 * 190, the other's signal 4 * 2470 + 2 * 190 + 5.
    assert total.cosine == pytest.approx(10070 / np.sqrt(9880 * 10265))
    assert (total.max_difference, total.is_output, total.matched_by) == (0.5, True, "output")
    assert found.first_difference == found.parting == total
    assert found.largest_drop == (double, total)
    assert (found.only_in_first, found.only_in_second) == ((), ("more",))
    plain = found.to_dict()
    assert plain["layers"][0]["sqnr_db"] is None
    assert (plain["parting"], plain["largest_drop"]) == ("sum", ["double", "sum"])
    assert plain["only_in_second"] == ("more",)


def test_integers_are_counted_on_a_common_grid_only() -> None:
    def counts(first: OpenModel, second: OpenModel) -> list[tuple[int | None, int | None]]:
        found = compare_models(first, second, IMAGES, threshold_db=0.0)
        return [(layer.integers_that_differ, layer.most_steps) for layer in found.layers]

    on_grid, other = doubling("a", scale=0.5), doubling("b", 1.5, scale=0.5)
    assert counts(on_grid, other) == [(0, 0), (0, 0), (20, 3)]
    # A float tensor may hold the levels too, as in a simulated model.
    assert counts(on_grid, doubling("b", 1.5)) == [(0, 0), (0, 0), (20, 3)]
    assert counts(on_grid, doubling("b", 1.6)) == [(0, 0), (0, 0), (None, None)]
    assert counts(on_grid, doubling("b", scale=0.25)) == [(None, None)] * 3
    assert counts(doubling("a"), doubling("b")) == [(None, None)] * 3


def test_what_is_good_on_both_sides_is_no_drop() -> None:
    found = compare_models(doubling("a"), doubling("b", 0.001), IMAGES, threshold_db=20.0)
    assert (found.largest_drop, found.parting) == (None, None)
    assert found.first_difference is found.layers[-1]


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "'b' must compute finite"), (np.inf, "infinity in 'sum'")]
)
def test_numbers_that_are_none_are_refused(value: float, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compare_models(doubling("a"), doubling("b", value), IMAGES, threshold_db=0.0)


def test_answers_of_another_size_are_refused() -> None:
    other = doubling("b", extra=["more"])
    other = OpenModel(other.name, other.input_shapes, other.tensors, {"o": 3}, other.run)
    with pytest.raises(DataError, match="'a' gives 2 numbers for an image, 'b' gives 3"):
        compare_models(doubling("a"), other, IMAGES, threshold_db=0.0)


def scaled(name: str, magnitudes: Sequence[float], outputs: int = 3) -> OpenModel:
    """Tensors x * magnitude; the inputs of the tests are numbers from 0 to 19."""
    names = tuple(f"t{i}" for i in range(len(magnitudes)))
    return OpenModel(
        name=name,
        input_shapes={"x": (2,)},
        tensors=tuple(OpenTensor(n, (n,), None, None) for n in names),
        outputs={"output_0": outputs},
        run=lambda images: [images[0] * np.float32(m) for m in magnitudes],
    )


def test_what_is_rounding_in_both_models_is_dead_and_does_not_count() -> None:
    # A millionth of the median of 1, 1e-9, 1 and 1; both SQNRs are about -20 dB.
    a, b = scaled("a", [1, 1e-9, 1, 1]), scaled("b", [1, 1e-8, 1, 1])
    found = compare_models(a, b, IMAGES, threshold_db=50.0)
    assert [layer.dead for layer in found.layers] == [False, True, False, False]
    assert found.layers[1].sqnr_db == pytest.approx(-20 * np.log10(9), abs=1e-3)
    assert (found.parting, found.largest_drop) == (None, None)
    assert found.first_difference is found.layers[1]
    assert [layer["dead"] for layer in found.to_dict()["layers"]] == [False, True, False, False]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 1e-9, 1, 1], [1, 1e-3, 1, 1]),  # the second model invents something
        ([1, 1e-3, 1, 1], [1, 1e-9, 1, 1]),  # the second model loses it
        ([1, 1e-5, 1, 1], [1, 1e-4, 1, 1]),  # small, but far above rounding
        ([1e-9, 1e-8, 1e-9, 1e-9], [1e-9, 1e-9, 1e-9, 1e-9]),  # all of a network may be small
    ],
)
def test_what_one_model_holds_is_not_dead(first: list[float], second: list[float]) -> None:
    found = compare_models(scaled("a", first), scaled("b", second), IMAGES, threshold_db=50.0)
    assert not any(layer.dead for layer in found.layers)
    assert found.parting is found.layers[1]


def test_an_output_counts_however_small_it_is() -> None:
    a, b = scaled("a", [1, 1, 1, 1e-9]), scaled("b", [1, 1, 1, 1e-8])
    found = compare_models(a, b, IMAGES, threshold_db=50.0)
    assert found.parting is found.layers[3]
