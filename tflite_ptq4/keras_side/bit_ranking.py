"""What quantizing each layer alone would cost, measured before the plan that spends the budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.second_thread import SecondThread
from tflite_ptq4.keras_side.sensitivity import measure_sensitivity
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.sensitivity import Sensitivity
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.quantized_weights import quantize_weights


class Sample(NamedTuple):
    """How much is measured: images at most, and random signs for each."""

    images: int
    probes: int


SAMPLES = {"fast": Sample(16, 1), "balanced": Sample(32, 1), "best": Sample(64, 4)}


def measured_for_budgets(
    lowered: LoweredModel,
    statistics: Mapping[str, TensorStatistics],
    config: QuantizationConfig,
    images: Sequence[NDArray[np.float32]],
    *,
    progress: Callable | None = None,
) -> dict[str, Sensitivity] | None:
    """Measure what each layer costs the outputs at its usual bits, rounded to nearest.

    Args:
        lowered: the model.
        statistics: of its tensors.
        config: the choices.
        images: for each input of the model float32 [n, ...], prepared as the model expects them;
            evenly spread ones of them are used.
        progress: wraps the list of batches and shows how far it is; None shows nothing.

    Returns:
        By the name of the operator, of what the budgets of the config are spent on; None where it
        has none to spend.
    """
    if not config.measured_parts:
        return None
    usual = config.without_images().replace(weight_bit_budget=None, activation_bit_budget=None)
    plan = build_plan(lowered.graph, statistics, usual)
    with SecondThread() as beside:
        weights = quantize_weights(lowered.graph, plan, statistics, share=beside.share)
    sample = SAMPLES[config.effort]
    return measure_sensitivity(
        lowered,
        plan,
        weights,
        statistics,
        images,
        parts=config.measured_parts,
        most_images=sample.images,
        probes=sample.probes,
        progress=progress,
    )
