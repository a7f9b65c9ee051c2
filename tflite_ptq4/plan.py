"""What will be done, before anything is done: bits, scale and clip of every tensor and layer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.text_table import aligned

FORMAT_VERSION = 1

INT8_MIN, INT8_MAX = -128, 127

# Reasons for the bits of a tensor at an end of the network; the report names the setting by them.
NETWORK_INPUT, NETWORK_OUTPUT = "network input", "network output"


@dataclass(frozen=True, eq=False)
class TensorPlan:
    """How one activation is quantized: x ~ scale * q, q an integer in [lower, upper].

    On the unsigned grid of the literature, q + zero_point lies in [0, 2^bits - 1]. One value per
    tensor (C = 1) or one per channel. A channel of 0 bits has one level, scale * -zero_point.

    Attributes:
        name: the tensor.
        source: the tensor whose scale it takes; its own name where it has one of its own.
        bits: int64 [C].
        scale: float64 [C], each a float32 value, so that every stage computes with the same number.
        zero_point: int64 [C].
        method: how each channel's clip was chosen.
        reason: why this method and these bits.
    """

    name: str
    source: str
    bits: NDArray[np.int64]
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    method: tuple[str, ...]
    reason: str

    @property
    def lower(self) -> NDArray[np.int64]:
        """The smallest integer, zero standing for 0.0."""
        return -self.zero_point

    @property
    def upper(self) -> NDArray[np.int64]:
        """The largest integer, zero standing for 0.0."""
        return 2**self.bits - 1 - self.zero_point

    @property
    def stored_zero_point(self) -> NDArray[np.int64]:
        """Where 0.0 lies on the int8 grid of an exported file: the levels end at 127."""
        return INT8_MAX - self.upper

    @property
    def low(self) -> NDArray[np.float64]:
        """The smallest real number that it can hold."""
        return self.scale * self.lower

    @property
    def high(self) -> NDArray[np.float64]:
        """The largest real number that it can hold."""
        return self.scale * self.upper

    @property
    def per_channel(self) -> bool:
        """Whether each channel has its own scale."""
        return len(self.scale) > 1


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What becomes of one operator.

    Attributes:
        name: the operator.
        layer_type: the class of the Keras layer that it came from.
        kind: its kind, see `operator_rules`.
        output: the tensor that it writes.
        quantized: whether it computes on integers.
        weight_bits: int64 [c_out], bits of each output channel's weights; None without weights,
            or in float.
        reason: where the bits come from, or why the operator stays in float.
    """

    name: str
    layer_type: str
    kind: str
    output: str
    quantized: bool
    weight_bits: NDArray[np.int64] | None
    reason: str


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Every operator and tensor of one model, as it will be quantized.

    Attributes:
        layers: the operators in the order of execution.
        tensors: the quantized tensors; what is not listed stays in float.
        config: the choices that led here.
        fingerprint: of the graph that it was made for.
    """

    layers: tuple[LayerPlan, ...]
    tensors: Mapping[str, TensorPlan]
    config: QuantizationConfig
    fingerprint: str

    def layer(self, name: str) -> LayerPlan:
        """The plan of the operator of that name.

        Raises:
            KeyError: there is none.
        """
        return {layer.name: layer for layer in self.layers}[name]

    @property
    def in_float(self) -> tuple[LayerPlan, ...]:
        """The operators that stay in float, each with its reason."""
        return tuple(layer for layer in self.layers if not layer.quantized)

    @property
    def per_channel_tensors(self) -> tuple[str, ...]:
        """The tensors with a scale per channel, which integer targets cannot hold."""
        return tuple(name for name, tensor in self.tensors.items() if tensor.per_channel)

    def render(self) -> str:
        """The plan as a table of plain text, one operator a line."""
        rows = [("layer", "type", "weights", "output", "scale", "zero point", "clip", "method")]
        rows += [
            ("(input)", "", "", *self._tensor_cells(name))
            for name in self.tensors
            if name not in {layer.output for layer in self.layers}
        ]
        for layer in self.layers:
            cells = self._tensor_cells(layer.output) if layer.output in self.tensors else ("",) * 5
            weights = "float" if layer.kind == "float" else _span(layer.weight_bits)
            rows.append((layer.name, layer.layer_type, weights, *cells))
        lines = aligned(rows, [True] * len(rows[0]))
        lines += [f"not quantized: {layer.name}: {layer.reason}" for layer in self.in_float]
        return "\n".join(lines)

    def _tensor_cells(self, name: str) -> tuple[str, ...]:
        tensor = self.tensors[name]
        methods = sorted(set(tensor.method))
        return (
            f"{_span(tensor.bits)} bits",
            _span(tensor.scale),
            _span(tensor.zero_point),
            f"[{tensor.low.min():.4g}, {tensor.high.max():.4g}]",
            f"as {tensor.source}" if tensor.source != name else "/".join(methods),
        )

    def to_dict(self) -> dict:
        """The plan as plain values; `from_dict` is its inverse."""
        return {
            "version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "config": self.config.to_dict(),
            "layers": [plain_record(layer) for layer in self.layers],
            "tensors": [plain_record(tensor) for tensor in self.tensors.values()],
        }

    @classmethod
    def from_dict(cls, values: Mapping) -> QuantizationPlan:
        """The plan of such values.

        Raises:
            FileFormatError: they are no plan of this version.
        """
        try:
            if values["version"] != FORMAT_VERSION:
                raise ValueError(f"version {values['version']!r}")
            layers = tuple(LayerPlan(**record_fields(layer)) for layer in values["layers"])
            tensors = [TensorPlan(**record_fields(tensor)) for tensor in values["tensors"]]
            return cls(
                layers=layers,
                tensors={tensor.name: tensor for tensor in tensors},
                config=QuantizationConfig.from_dict(values["config"]),
                fingerprint=values["fingerprint"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"A plan must be what `QuantizationPlan.save` writes, version {FORMAT_VERSION}. "
                f"Received: {error}. Build it anew."
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON.

        Raises:
            OutputError: the path is not writable.
        """
        write_bytes(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QuantizationPlan:
        """Read a plan that `save` wrote.

        Raises:
            FileFormatError: the file is missing or holds no plan.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise FileFormatError(
                f"A plan must be a readable JSON file. Received: {str(path)!r} ({error}). "
                "Name a file that `QuantizationPlan.save` wrote."
            ) from error
        return cls.from_dict(values)


_INTEGERS = ("bits", "zero_point", "weight_bits")


def plain_record(record: LayerPlan | TensorPlan) -> dict:
    """The fields of a part of a plan as plain values."""
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(record).items()
    }


def record_fields(values: Mapping) -> dict:
    """The inverse of `plain_record`: what `LayerPlan` or `TensorPlan` is made of."""
    converted = dict(values)
    for key in _INTEGERS:
        if converted.get(key) is not None:
            converted[key] = np.asarray(converted[key], dtype=np.int64)
    if "scale" in converted:
        converted["scale"] = np.asarray(converted["scale"], dtype=np.float64)
        converted["method"] = tuple(converted["method"])
    return converted


def _span(values: NDArray | None) -> str:
    """One value, or the least and the greatest of several."""
    if values is None:
        return ""
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"
