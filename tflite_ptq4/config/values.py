"""What the fields of a config and of its rules can hold, as types that are checked.

`Literal` names the choices, `Annotated[int, (2, 8)]` the inclusive range.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

ActivationClipping = Literal["auto", "laplace", "gaussian", "min_max", "percentile", "mse"]
Granularity = Literal["per_channel", "per_tensor"]
WeightScale = Literal["squared_error", "max_abs", "laplace", "gaussian"]
QuantizedTensors = Literal["all", "layer_inputs"]
ClippingError = Literal["readers", "tensor"]
BitAllocation = Literal["none", "paper", "exact"]
WeightBitAllocation = Literal["none", "paper", "exact", "measured"]
MeanCorrection = Literal["bias", "roundings", "weights", "none"]
WeightRounding = Literal["second_order", "nearest"]
Effort = Literal["fast", "balanced", "best"]
Bits = Annotated[int, (2, 8)]
BitBound = Annotated[int, (0, 8)]
AverageBits = Annotated[float, (0, 8)]
Percent = Annotated[float, (50, 100)]

LEAST_MEASURED_BITS = 2  # the fewest that have a grid
EFFORTS: tuple[str, ...] = get_args(Effort)
