"""What the converters refuse to write, and what the read-back check refuses to let out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from exported_networks import CONFIGS, export_model, exported

from tflite_ptq4 import converters
from tflite_ptq4.converters import ExportSource, check_file, export
from tflite_ptq4.converters.flatbuffer_model import parse, serialize
from tflite_ptq4.converters.schema import ModelT, TensorT
from tflite_ptq4.errors import ReadbackError, TargetError


@pytest.fixture(scope="module")
def source() -> ExportSource:
    return exported("residual", "w4a8").source()


@pytest.fixture(scope="module")
def per_channel_source() -> ExportSource:
    return exported("residual", "paper_w4a4").source()


@pytest.mark.parametrize("target", ["int8", "", "INT8_CONTAINER"])
def test_an_unknown_target_is_refused(source: ExportSource, target: str) -> None:
    with pytest.raises(TargetError, match=r"must be one of .*int8_container.*Received: "):
        export(source, target=target)


def test_an_unknown_type_of_inputs_and_outputs_is_refused(source: ExportSource) -> None:
    with pytest.raises(TargetError, match=r"`io` must be one of float32, int8. Received: 'uint8'"):
        export(source, target="int8_container", io="uint8")


def test_float_simulated_has_no_integer_ends(source: ExportSource) -> None:
    with pytest.raises(TargetError, match="'float_simulated' has float32 inputs and outputs"):
        export(source, target="float_simulated", io="int8")


def test_a_scale_per_channel_is_refused_by_name(per_channel_source: ExportSource) -> None:
    first = per_channel_source.plan.per_channel_tensors[0]
    with pytest.raises(TargetError, match=rf"one scale per activation tensor.*{first}"):
        export(per_channel_source, target="int8_container")


def test_weights_off_the_grid_are_refused_by_name() -> None:
    made = exported("residual", "w4a8")
    config = CONFIGS["w4a8"].replace(bias_correction=True, mean_correction="weights")
    moved = export_model(made.model, made.images, calibration(made), config)
    with pytest.raises(TargetError, match=r"with mean_correction: weights.* in layer 'conv2d"):
        moved.file()
    assert moved.file("float_simulated")


def calibration(made):
    from exported_networks import calibrate

    return calibrate(made.model, made.images)


def test_a_layer_whose_operator_has_no_int8_kernel_is_refused_by_name(
    source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tflite_ptq4.converters import int8_container
    from tflite_ptq4.converters.schema import BuiltinOperator

    without_add = dict(int8_container.INT8_VERSIONS)
    del without_add[BuiltinOperator.ADD]
    monkeypatch.setattr(int8_container, "INT8_VERSIONS", without_add)
    with pytest.raises(TargetError, match=r"Layer 'add' .* int8 kernel. Received: ADD"):
        export(source, target="int8_container")


# --- the read-back check ---


def tensor(model: ModelT, ending: str) -> TensorT:
    return next(t for t in model.subgraphs[0].tensors if t.name.endswith(ending.encode()))


def add_one(model: ModelT, ending: str) -> None:
    data = model.buffers[tensor(model, ending).buffer].data.copy()
    data[0] ^= 1
    model.buffers[tensor(model, ending).buffer].data = data


def double_scale(model: ModelT, ending: str) -> None:
    quantization = tensor(model, ending).quantization
    scale = np.array(quantization.scale)
    scale[0] *= 2
    quantization.scale = scale


def move_input_zero_point(model: ModelT) -> None:
    quantization = model.subgraphs[0].tensors[conv_input(model)].quantization
    quantization.zeroPoint = np.array(quantization.zeroPoint) + 1


def double_input_scale(model: ModelT) -> None:
    quantization = model.subgraphs[0].tensors[conv_input(model)].quantization
    quantization.scale = np.array(quantization.scale) * 2


def conv_input(model: ModelT) -> int:
    return next(int(o.inputs[0]) for o in model.subgraphs[0].operators if len(o.inputs) == 3)


def forget_a_layer(model: ModelT) -> None:
    tensor(model, "/kernel").name = b"another"


TAMPERINGS: dict[str, Callable[[ModelT], None]] = {
    "planned integers": lambda model: add_one(model, "/kernel"),
    "planned biases": lambda model: add_one(model, "/bias"),
    "planned weight scales": lambda model: double_scale(model, "/kernel"),
    "planned input scale": double_input_scale,
    "planned input zero point": move_input_zero_point,
    "none of it": forget_a_layer,
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampered_integer_file_is_caught(source: ExportSource, what: str) -> None:
    data = export(source, target="int8_container")
    check_file(data, source, target="int8_container")
    model = parse(data)
    TAMPERINGS[what](model)
    with pytest.raises(ReadbackError, match=what):
        check_file(serialize(model), source, target="int8_container")


@pytest.mark.parametrize("what", ["weights", "biases", "none of it"])
def test_a_tampered_float_file_is_caught(per_channel_source: ExportSource, what: str) -> None:
    data = export(per_channel_source, target="float_simulated")
    model = parse(data)
    {
        "weights": lambda: add_one(model, "/kernel"),
        "biases": lambda: add_one(model, "/bias"),
        "none of it": lambda: forget_a_layer(model),
    }[what]()
    with pytest.raises(ReadbackError, match=what):
        check_file(serialize(model), per_channel_source, target="float_simulated")


def test_weights_wider_than_planned_are_caught(source: ExportSource) -> None:
    """A writer and a check that agree with each other must still keep to the planned bits."""
    name = next(n for n, w in source.weights.items() if source.plan.layer(n).weight_bits[0] == 4)
    integers = source.weights[name].integers.copy()
    integers.flat[0] = 9
    wide = replace(
        source,
        weights={**source.weights, name: replace(source.weights[name], integers=integers)},
    )
    with pytest.raises(ReadbackError, match=rf"planned bit widths of layer '{name}'"):
        export(wide, target="int8_container")


def test_export_checks_what_it_writes(
    source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrongly(source: ExportSource, *, io: str) -> ModelT:
        model = write(source, io=io)
        add_one(model, "/kernel")
        return model

    write = converters._WRITERS["int8_container"]
    monkeypatch.setitem(converters._WRITERS, "int8_container", write_wrongly)
    with pytest.raises(ReadbackError):
        export(source, target="int8_container")
