"""Numbers that stand in for large kernels on the way through TFLiteConverter leave no trace."""

from __future__ import annotations

from dataclasses import replace

import keras_networks
import numpy as np
import pytest
from exported_networks import exported

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.keras_side import float_tflite
from tflite_ptq4.keras_side.float_files import FloatFiles

TARGETS = ["int8_container", "packed_int4", "float_simulated"]


@pytest.mark.parametrize("network", sorted(keras_networks.NETWORKS))
def test_a_file_is_the_same_with_and_without_them(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported(network, "w4a8")
    plain = [made.file(target) for target in TARGETS]
    monkeypatch.setattr(float_tflite, "LARGE_KERNEL", 1)
    anew = replace(made.quantized, float_files=FloatFiles(made.quantized.lowered))
    assert [anew.to_tflite(target) for target in TARGETS] == plain


def test_the_float_file_holds_one_number_for_a_large_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float_tflite, "LARGE_KERNEL", 1)
    quantized = exported("residual", "w4a8").quantized
    lowered = quantized.lowered
    shapes = {name: lowered.graph.shapes[name][1:] for name in lowered.graph.inputs}
    file = float_tflite.to_float_tflite(lowered, shapes, quantized.weights)
    assert set(file.stand_ins) == set(quantized.weights)
    buffers = [buffer.data for buffer in parse(file.data).buffers if buffer.data is not None]
    held = [set(np.frombuffer(b.tobytes(), "<f4").tolist()) for b in buffers if len(b) % 4 == 0]
    assert all({number} in held for number in file.stand_ins.values())
