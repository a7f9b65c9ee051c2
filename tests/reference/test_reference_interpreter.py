"""The reference as an interpreter: what it reads, runs alone or in a row, and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import integer_reference
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from integer_reference import Reference, expose_all_tensors, run_litert, run_reference
from operator_cases import (
    IMAGE,
    RELU,
    SIXTEEN_LEVELS,
    binary,
    concatenation,
    reshape,
    single,
    strided_slice,
    unary,
)
from tiny_tflite import pack
from weighted_cases import block, folded_weights


def test_a_larger_batch_is_the_stack_of_its_images(rng: np.random.Generator) -> None:
    model, _ = block(rng)
    images = rng.integers(-128, 128, (3, 12, 12, 3)).astype(np.int8)
    together = run_reference(model, [images])
    for index in run_litert(model, [images[:1]]):
        alone = [run_reference(model, [image[None]])[index] for image in images]
        np.testing.assert_array_equal(together[index], np.concatenate(alone))


def test_reshape_carries_a_larger_batch(rng: np.random.Generator) -> None:
    model, _ = reshape(rng, *SIXTEEN_LEVELS)
    images = rng.integers(-128, 128, (3, 8, 8, 5)).astype(np.int8)
    (result,) = run_litert(model, [images[:1]])
    np.testing.assert_array_equal(run_reference(model, [images])[result], images.reshape(3, 320))


def test_each_operator_alone_gives_what_all_of_them_give(rng: np.random.Generator) -> None:
    model, inputs = block(rng)
    computed = run_litert(model, inputs)
    alone = Reference(model).run_each(inputs, computed)
    assert [name for name, _ in alone.values()] == [
        "CONV_2D",
        "FULLY_CONNECTED",
        "QUANTIZE",
        "ADD",
        "MEAN",
        "FULLY_CONNECTED",
    ]
    for index, value in run_reference(model, inputs).items():
        if index in computed:
            np.testing.assert_array_equal(alone[index][1], value)


def test_a_wrong_tensor_is_charged_to_the_operator_that_writes_it(
    rng: np.random.Generator,
) -> None:
    model, inputs = block(rng)
    computed = run_litert(model, inputs)
    wrong = next(i for i, v in computed.items() if v.shape == (1, 12, 12, 8))
    spoilt = {**computed, wrong: np.roll(computed[wrong], 1)}
    alone = Reference(model).run_each(inputs, spoilt)
    np.testing.assert_array_equal(alone[wrong][1], computed[wrong])
    assert any((alone[index][1] != computed[index]).any() for index in computed if index != wrong)


def test_what_depends_on_constants_alone_is_computed_here(rng: np.random.Generator) -> None:
    model, inputs = folded_weights(rng)
    dequantize, convolve = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0].operators
    computed = run_litert(model, inputs)
    assert list(computed) == convolve.outputs.tolist()
    assert dequantize.outputs[0] in run_reference(model, inputs)
    assert list(Reference(model).run_each(inputs, computed)) == list(computed)


def test_exposing_tensors_keeps_the_outputs_first_and_unchanged(rng: np.random.Generator) -> None:
    model, inputs = block(rng)
    exposed = run_litert(model, inputs)
    graph = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
    assert next(iter(exposed)) == graph.outputs[0]
    assert set(exposed) == {index for node in graph.operators for index in node.outputs}

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs[0])
    interpreter.invoke()
    (logits,) = interpreter.get_output_details()
    np.testing.assert_array_equal(interpreter.get_tensor(logits["index"]), exposed[logits["index"]])


def test_exposing_tensors_twice_changes_nothing(rng: np.random.Generator) -> None:
    once = expose_all_tensors(block(rng)[0])
    graphs = [
        schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
        for model in (once, expose_all_tensors(once))
    ]
    assert graphs[0].outputs.tolist() == graphs[1].outputs.tolist()


UNSUPPORTED = {
    "unknown_operator": (lambda r: unary(r, "FLOOR", (), ()), "FLOOR"),
    "float_only": (lambda r: unary(r, "ROUND", (0.1, 0), (0.1, 0)), "ROUND .*only float"),
    "mixed_dtypes": (
        lambda r: single(r, "ADD", [(IMAGE,), (IMAGE, 0.1, 0)], (IMAGE,), "AddOptions"),
        "ADD .*mix float32, int8, float32",
    ),
    "unequal_grids": (
        lambda r: single(
            r,
            "MAXIMUM",
            [(IMAGE, 0.1, 0), (IMAGE, 0.2, 0)],
            (IMAGE, 0.1, 0),
            "MaximumMinimumOptions",
        ),
        "MAXIMUM .*another scale",
    ),
    "quantize_ratio": (lambda r: unary(r, "QUANTIZE", (0.1, 0), (50.0, 0)), "QUANTIZE .*ratio"),
    # 300 output steps to each input step: LiteRT's vector code wraps around at 16 bits.
    "add_overflow": (
        lambda r: binary(r, "ADD", (30.0, 0), (1.0, 0), (0.1, 0)),
        "ADD .*16 bits",
    ),
    "hard_swish_overflow": (
        lambda r: unary(r, "HARD_SWISH", (0.001, 0), (1.0, 0)),
        "HARD_SWISH .*16 bits",
    ),
    "concatenation_activation": (
        lambda r: concatenation(r, *SIXTEEN_LEVELS, activation=RELU),
        "CONCATENATION .*ignores",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_reference_is_refused_by_name(name: str, rng: np.random.Generator) -> None:
    build, message = UNSUPPORTED[name]
    with pytest.raises(NotImplementedError, match=message):
        run_reference(*build(rng))


def test_masks_without_a_reference_are_refused(rng: np.random.Generator) -> None:
    model = schema.ModelT.InitFromPackedBuf(strided_slice(rng, *SIXTEEN_LEVELS)[0], 0)
    model.subgraphs[0].operators[0].builtinOptions.newAxisMask = 1
    with pytest.raises(NotImplementedError, match=r"STRIDED_SLICE .*masks"):
        run_reference(pack(model), [np.zeros((1, 8, 9, 5), np.int8)])


def test_inputs_of_another_dtype_are_refused(rng: np.random.Generator) -> None:
    model, _ = block(rng)
    with pytest.raises(TypeError, match="must be int8, got float32"):
        run_reference(model, [np.zeros((1, 12, 12, 3), np.float32)])


def test_the_reference_loads_neither_the_package_nor_tensorflow() -> None:
    program = (
        "import sys, integer_reference; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(integer_reference.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "integer_reference" in loaded
    assert not {"tflite_ptq4", "tensorflow", "keras"} & set(loaded)
