"""Two one-layer networks as .tflite files that LiteRT runs."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tiny_tflite import TinyModel

RELU = schema.ActivationFunctionType.RELU
RELU6 = schema.ActivationFunctionType.RELU6


def float_dense(weights: np.ndarray, *, side: int = 2) -> bytes:
    """logits = weights @ the flattened image [side, side, 1]; weights [classes, side * side]."""
    network = TinyModel()
    image = network.activation((1, side, side, 1))
    kernel = network.constant(weights.astype(np.float32))
    logits = network.activation((1, len(weights)))
    network.operator(
        "FULLY_CONNECTED", [image, kernel, -1], logits, "FullyConnectedOptions", keepNumDims=False
    )
    return network.to_bytes([image], [logits])


def int8_conv(kernel: np.ndarray, *, packed: bool = False, side: int = 4) -> bytes:
    """An int8 convolution with a fused ReLU of 16 levels: kernel int8 [out, k, k, in].

    Scales: image 1/8 (zero point -3), weights 1/16, output 1/4 (zero point 112).
    """
    out, _, _, channels = kernel.shape
    network = TinyModel()
    image = network.activation((1, side, side, channels), 1 / 8, -3)
    weights = network.constant(kernel, [1 / 16] * out, packed=packed)
    bias = network.constant(np.zeros(out, np.int32), [1 / 128] * out)
    output = network.activation((1, side, side, out), 1 / 4, 112)
    network.operator(
        "CONV_2D",
        [image, weights, bias],
        output,
        "Conv2DOptions",
        version=3,
        strideH=1,
        strideW=1,
        fusedActivationFunction=RELU,
    )
    return network.to_bytes([image], [output])
