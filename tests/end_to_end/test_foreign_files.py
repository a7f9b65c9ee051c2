"""Files that TFLiteConverter writes, of every kind that it has: inspected, and looked into."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tflite_ptq4.cli import main
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.evaluation.open_models import open_tflite

CONVERTED = tf.lite.OpsSet
VECTOR = tf.TensorSpec([1, 4], tf.float32)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Statistics for quantized inputs were expected:UserWarning"
)


def conv_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 3), name="image"), *layers, keras.layers.Dense(3)])


def quantized(*operators: str, kind: tf.DType | None = None, images: bool = False) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(conv_net())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if operators:
        converter.target_spec.supported_ops = [getattr(CONVERTED, name) for name in operators]
    if kind is not None:
        converter.target_spec.supported_types = [kind]
    if images:
        sample = np.linspace(-1, 1, 108, dtype=np.float32).reshape(1, 6, 6, 3)
        converter.representative_dataset = lambda: iter([[sample]])
    return converter.convert()


def sparse() -> bytes:
    dense = keras.layers.Dense(64)
    model = keras.Sequential([keras.Input((32,)), dense])
    kernel, bias = dense.get_weights()
    dense.set_weights([np.where(np.arange(kernel.size).reshape(kernel.shape) % 9, 0, kernel), bias])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return converter.convert()


def function(compute: Callable, *, custom: bool = False) -> bytes:
    concrete = tf.function(compute, input_signature=[VECTOR]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.allow_custom_ops = custom
    return converter.convert()


def control_flow() -> bytes:
    def compute(x):
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1)
        again = [tf.constant(0), x]
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ tf.ones((4, 4))), again)[
            1
        ]

    return function(compute)


class _Counter(tf.Module):
    def __init__(self) -> None:
        self.total = tf.Variable(tf.zeros(4))

    @tf.function(input_signature=[VECTOR])
    def add(self, x):
        self.total.assign_add(x[0])
        return {"total": self.total + 0.0}

    @tf.function(input_signature=[VECTOR])
    def double(self, x):
        return {"double": 2.0 * x}


def two_signatures_and_a_variable() -> bytes:
    counter = _Counter()
    concrete = [counter.add.get_concrete_function(), counter.double.get_concrete_function()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(concrete, counter)
    converter.experimental_enable_resource_variables = True
    return converter.convert()


FILES: dict[str, Callable[[], bytes]] = {
    "float": lambda: tf.lite.TFLiteConverter.from_keras_model(conv_net()).convert(),
    "dynamic range": quantized,
    "float16": lambda: quantized(kind=tf.float16),
    "int8": lambda: quantized("TFLITE_BUILTINS_INT8", images=True),
    "int16x8": lambda: quantized(
        "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8", images=True
    ),
    "sparse": sparse,
    "control flow": control_flow,
    "variable": two_signatures_and_a_variable,
    "identity": lambda: function(tf.identity),
    "custom": lambda: function(lambda x: tf.raw_ops.Betainc(a=x, b=x, x=x), custom=True),
}
NOT_OPENED = {
    "identity": "must hold a graph",
    "custom": "unresolved custom op: Betainc",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("files")
    for name, write in FILES.items():
        (folder / name).write_bytes(write())
    return folder


@pytest.mark.parametrize("name", FILES)
def test_any_file_is_inspected(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(files / name)]) == 0
    assert str(files / name) in capsys.readouterr().out
    assert main(["inspect", str(files / name), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(result["bytes_by_kind"].values()) == (files / name).stat().st_size
    assert min(result["bytes_by_kind"].values()) >= 0
    signatures = {s["name"]: (list(s["inputs"]), list(s["outputs"])) for s in result["signatures"]}
    if name == "variable":
        assert signatures == {"add": (["x"], ["total"]), "double": (["x"], ["double"])}
    elif name == "float":
        assert signatures == {"serving_default": (["image"], ["output_0"])}
    assert (result["subgraphs"] > 1) == (name in ("variable", "control flow"))
    weights = [(w["operator"], w["type"], w["stored_bits"]) for w in result["weights"]]
    stored = {"float": 32, "dynamic range": 32, "float16": 16, "int8": 8, "int16x8": 8}.get(name)
    if stored is not None:
        assert {bits for _, _, bits in weights} == {stored}
    if name == "sparse":
        # One weight of nine is stored, 32 bits each; zeros of partly filled blocks count too.
        ((operator, kind, bits),) = weights
        assert (operator, kind) == ("FULLY_CONNECTED", "FLOAT32")
        assert 32 / 9 <= bits < 16


@pytest.mark.parametrize("name", FILES)
def test_files_that_run_can_be_looked_into(name: str, files: Path) -> None:
    content = (files / name).read_bytes()
    if name in NOT_OPENED:
        with pytest.raises(FileFormatError, match=NOT_OPENED[name]):
            open_tflite(content, name=name)
        return
    model = open_tflite(content, name=name)
    (shape,) = model.input_shapes.values()
    values = model.run([np.full((2, *shape), 0.25, np.float32)])
    (output,) = model.outputs.values()
    if name == "control flow":
        np.testing.assert_array_equal(values[output], np.full((2, 4), 0.5 * 4**3))
    elif name == "variable":
        np.testing.assert_array_equal(values[output], [[0.25] * 4, [0.5] * 4])
    else:
        assert np.isfinite(values[output]).all() and values[output].any()
