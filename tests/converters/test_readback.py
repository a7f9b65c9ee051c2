"""A written file is read back and held against the plan: one number changed in it is found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from exported_networks import exported

from tflite_ptq4 import converters
from tflite_ptq4.converters import ExportSource, check_file, export
from tflite_ptq4.converters.flatbuffer_model import parse, serialize
from tflite_ptq4.converters.schema import ModelT, TensorT, TensorType
from tflite_ptq4.errors import ReadbackError


def tensor(model: ModelT, ending: str) -> TensorT:
    return next(t for t in model.subgraphs[0].tensors if t.name.endswith(ending.encode()))


def named(model: ModelT, name: str) -> TensorT:
    return next(t for t in model.subgraphs[0].tensors if t.name.decode() == name)


def add_one(model: ModelT, ending: str) -> None:
    data = model.buffers[tensor(model, ending).buffer].data.copy()
    data[0] ^= 1
    model.buffers[tensor(model, ending).buffer].data = data


def double_scale(quantized: TensorT) -> None:
    scale = np.array(quantized.quantization.scale)
    scale[0] *= 2
    quantized.quantization.scale = scale


def move_zero_point(quantized: TensorT) -> None:
    zero_point = np.array(quantized.quantization.zeroPoint)
    zero_point[0] += 1
    quantized.quantization.zeroPoint = zero_point


def let_a_layer_read_another(model: ModelT, change: Callable[[TensorT], None]) -> None:
    graph = model.subgraphs[0]
    layer = next(operator for operator in graph.operators if len(operator.inputs) == 3)
    another = deepcopy(graph.tensors[layer.inputs[0]])
    another.name = b"another"
    change(another)
    graph.tensors.append(another)
    layer.inputs = np.array([len(graph.tensors) - 1, *layer.inputs[1:]], dtype=np.int32)


def forget(model: ModelT, ending: str) -> None:
    tensor(model, ending).name = b"another"


TAMPERINGS: dict[str, Callable[[ModelT], None]] = {
    "planned integers of layer": lambda model: add_one(model, "/kernel"),
    "planned biases": lambda model: add_one(model, "/bias"),
    "planned weight scales": lambda model: double_scale(tensor(model, "/kernel")),
    "planned weight zero points": lambda model: move_zero_point(tensor(model, "/kernel")),
    "planned bias scales": lambda model: double_scale(tensor(model, "/bias")),
    "planned input scale": lambda model: let_a_layer_read_another(model, double_scale),
    "planned input zero point": lambda model: let_a_layer_read_another(model, move_zero_point),
    "none of it": lambda model: forget(model, "/kernel"),
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
        "none of it": lambda: forget(model, "/kernel"),
    }[what]()
    with pytest.raises(ReadbackError, match=what):
        check_file(serialize(model), per_channel_source, target="float_simulated")


# One with a float layer at each end, and one whose signed 4-bit tensors are pairs.
INTEGER_SOURCES = [("float_at_both_ends", "w4a4_signed4"), ("residual", "w4a4_signed4")]
FORMS = ("", "/quantized", "/unclipped", "/quantized/unclipped")
OF_INTEGER_TENSORS: dict[str, Callable[[TensorT], None]] = {
    "scale": double_scale,
    "zero point": move_zero_point,
}


def int8_names(data: bytes) -> set[str]:
    tensors = parse(data).subgraphs[0].tensors
    return {t.name.decode() for t in tensors if t.type == TensorType.INT8}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", OF_INTEGER_TENSORS)
def test_a_changed_tensor_of_an_integer_file_is_caught_by_name(change: str, form: str) -> None:
    seen = 0
    for network, config in INTEGER_SOURCES:
        made = exported(network, config)
        source, data = made.source(), made.file()
        for name in source.plan.tensors:
            if name + form not in int8_names(data):
                continue
            seen += 1
            model = parse(data)
            OF_INTEGER_TENSORS[change](named(model, name + form))
            with pytest.raises(ReadbackError, match=f"scale and zero point of tensor '{name}'"):
                check_file(serialize(model), source, target="int8_container")
    assert seen


@pytest.mark.parametrize(("network", "config"), INTEGER_SOURCES)
def test_a_planned_tensor_that_an_integer_file_has_not_is_caught_by_name(
    network: str, config: str
) -> None:
    made = exported(network, config)
    source, data = made.source(), made.file()
    for name in source.plan.tensors:
        model = parse(data)
        for held in {name, f"{name}/quantized"} & int8_names(data):
            named(model, held).name = b"another"
        with pytest.raises(ReadbackError, match=rf"planned integers of tensor '{name}'"):
            check_file(serialize(model), source, target="int8_container")


ROUNDING = ("inverse_scale", "upper", "lower", "scale", "stored_zero", "nudge_up", "nudge_down")


@pytest.mark.parametrize("what", ROUNDING)
@pytest.mark.parametrize(
    ("network", "config"), [("signed_average_pool", "w4a8"), ("pools", "paper_w4a4")]
)
def test_a_changed_constant_of_a_rounding_is_caught_by_name(
    network: str, config: str, what: str
) -> None:
    made = exported(network, config)
    source, data = made.source(), made.file("float_simulated")
    names = [
        name
        for name in source.plan.tensors
        if any(held.name.decode() == f"{name}/{what}" for held in parse(data).subgraphs[0].tensors)
    ]
    assert names
    for name in names:
        refused = rf"planned constant '{what}' of tensor '{name}'"
        for change in (add_one, forget):
            model = parse(data)
            change(model, f"{name}/{what}")
            with pytest.raises(ReadbackError, match=refused):
                check_file(serialize(model), source, target="float_simulated")


@pytest.mark.parametrize(("network", "config"), [("pools", "w4a8"), ("residual", "paper_w4a4")])
def test_every_planned_tensor_of_a_float_file_is_rounded_or_moves_rounded_values(
    network: str, config: str
) -> None:
    made = exported(network, config)
    names = {t.name.decode() for t in parse(made.file("float_simulated")).subgraphs[0].tensors}
    graph = made.source().graph
    unrounded = {name for name in made.quantized.plan.tensors if f"{name}/scale" not in names}
    assert {graph.producer[name].kind for name in unrounded} <= {"max_pool"}


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
