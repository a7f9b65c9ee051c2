from __future__ import annotations

import pytest

from tflite_ptq4.layer_names import last_steps, layers_of_tensors


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Keras 3 numbers models and layers; the layer "conv_1" is the second of "conv".
        (
            ["net_1/act_1/Relu6;net_1/bn_1/batchnorm/add_1;net_1/conv_1/convolution"],
            [("act", "bn/batchnorm", "bn", "conv")],
        ),
        (
            ["net_1/conv_1/Relu", "net_1/conv_1_2/Relu"],
            [("net_1/conv_1/Relu", "conv"), ("net_1/conv_1_2/Relu", "conv_1")],
        ),
        # tf_keras does not.
        (
            ["net/conv_1/Relu", "net/inner/conv/Relu"],
            [("net/conv_1/Relu", "conv_1"), ("net/inner/conv/Relu", "inner/conv", "inner")],
        ),
        (
            ["StatefulPartitionedCall/net/conv/BiasAdd;x"],
            [("conv", "x")],
        ),
        # Our files and simulated models.
        (
            ["image", "image/quantized", "inner/c/linear", "inner/c/linear/round/upper"],
            [
                ("image",),
                ("image", "image/quantized"),
                ("inner/c/linear", "c"),
                ("inner/c/linear/round/upper", "c/linear/round", "c/linear", "c"),
            ],
        ),
        (["inner.c", "v1.0"], [("inner/c", "inner.c"), ("v1/0", "v1.0")]),
        (["serving_default_image:0", ""], [("serving_default_image:0", "image"), ("",)]),
    ],
)
def test_layers_of_tensors(names: list[str], expected: list[tuple[str, ...]]) -> None:
    assert layers_of_tensors(names) == expected


def test_the_steps_after_a_layer_end_it() -> None:
    names = ["conv", "conv/round", "conv/round/scale", "add", "block/scale", "sum.quantized"]
    assert last_steps(names) == {
        "conv": "conv/round/scale",
        "add": "add",
        "block/scale": "block/scale",
        "sum/quantized": "sum.quantized",
    }
