from __future__ import annotations

import numpy as np
import pytest
from tiny_graphs import weighted

from tflite_ptq4.distributions import (
    Distribution,
    Prior,
    tensor_distribution,
    weight_distribution,
)
from tflite_ptq4.numerics.analytic_clipping import laplace_ratio
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.layer_weights import LayerWeights


def plan(low: float, high: float, method: str = "mse", bits: int = 4) -> TensorPlan:
    scale = (high - low) / (2**bits - 1)
    return TensorPlan(
        name="t",
        source="t",
        bits=np.array([bits]),
        scale=np.array([scale]),
        zero_point=np.array([round(-low / scale)]),
        method=(method,),
        reason="",
    )


def of(values: np.ndarray, made: TensorPlan, *, one_sided: bool = False) -> Distribution:
    statistics = TensorStatistics.from_array(values.reshape(-1, 1).astype(np.float32))
    return tensor_distribution(statistics, made, one_sided=one_sided)


def test_the_shares_zeros_and_tails_are_all_values(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.laplace(0, 1, 30_000), np.zeros(10_000)])
    found = of(values, plan(-3.0, 3.0))
    assert found.zeros == 0.25
    total = sum(found.shares) + found.zeros + found.below + found.above
    assert total == pytest.approx(1.0, abs=1e-3)  # 60 numbers of four digits
    # A step of 0.4 and a zero point of 8: [-3.2, 2.8], beyond which lie exp(-3.2) and exp(-2.8) of
    # either half of three quarters.
    assert (found.clip_low, found.clip_high) == pytest.approx((-3.2, 2.8))
    assert found.clipped == pytest.approx(0.375 * (np.exp(-3.2) + np.exp(-2.8)), rel=0.1)


@pytest.mark.parametrize(
    ("draw", "method", "family", "chosen", "scale"),
    [
        (lambda rng: rng.laplace(1, 2, 20_000), "mse", "laplace", False, 2.0),
        (lambda rng: rng.normal(1, 2, 20_000), "mse", "gaussian", False, 2.0),
        # The clip was taken from it, likely or not: E|x| of a normal density is 0.798 sigma.
        (lambda rng: rng.normal(1, 2, 20_000), "laplace", "laplace", True, 1.596),
    ],
)
def test_the_prior_is_that_of_the_clip_or_the_likelier(
    rng: np.random.Generator, draw, method: str, family: str, chosen: bool, scale: float
) -> None:
    prior = of(draw(rng), plan(-4.0, 4.0, method)).prior
    assert (prior.family, prior.chosen) == (family, chosen)
    assert prior.scale == pytest.approx(scale, rel=0.03)
    assert prior.center == pytest.approx(1.0, abs=0.05)


def test_after_a_relu_the_density_is_of_the_positive_values(rng: np.random.Generator) -> None:
    found = of(rng.laplace(0, 2, 40_000), plan(0.0, 6.0), one_sided=True)
    assert found.start == 0.0
    assert found.zeros == pytest.approx(0.5, abs=0.01)
    assert found.prior.one_sided
    assert found.prior.scale == pytest.approx(2.0, rel=0.03)
    # Half of the values at twice the density: 0.5 * 2 / (2 * 2) at zero.
    assert found.prior.density(0.0) == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
@pytest.mark.parametrize("one_sided", [False, True])
def test_a_density_sums_to_its_share(family: str, one_sided: bool) -> None:
    x = np.linspace(0.0 if one_sided else -40.0, 40.0, 100_001)
    density = Prior(family, 0.0, 2.0, 0.6, one_sided, True).density(x)
    assert np.trapezoid(density, x) == pytest.approx(0.6, rel=1e-3)


def test_all_zeros_have_no_prior_and_can_be_drawn() -> None:
    found = of(np.zeros(10), plan(0.0, 1.0), one_sided=True)
    assert found.prior is None
    assert (found.zeros, found.clipped) == (1.0, 0.0)
    assert found.start < found.stop


def test_nothing_seen_is_no_distribution() -> None:
    assert tensor_distribution(TensorStatistics.empty(1), plan(0, 1), one_sided=False) is None


def test_weights_are_shares_of_the_clip_of_their_channel() -> None:
    node = weighted("dense", "image", np.array([[0.7, 14.0], [-1.4, 7.0]]), kind="dense")
    weights = LayerWeights(
        integers=np.zeros((2, 2), np.int8),
        scale=np.array([0.1, 2.0]),  # clips 0.7 and 14: the shares are 1, -2, 1, 0.5
        bias=np.zeros(2),
        offset=np.zeros(2),
    )
    found = weight_distribution(node, weights, np.array([4, 4]), "max_abs")
    assert (found.clip_low, found.clip_high) == (-1.0, 1.0)
    assert found.prior.center == pytest.approx(0.125)
    assert found.start < -2.0
    fitted = weight_distribution(node, weights, np.array([4, 4]), "laplace").prior
    assert fitted.chosen and fitted.scale == pytest.approx(1 / laplace_ratio(4), rel=1e-3)
    assert weight_distribution(node, weights, np.array([0, 1]), "max_abs") is None
