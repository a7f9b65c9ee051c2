"""Tiny Keras networks, one for each layer kind and for each way in which they combine.

Weights are random and BatchNormalization has random statistics, both from one seed per network, so
that every process builds the same one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

IMAGES = 12

NETWORKS: dict[str, Callable[[], keras.Model]] = {}
WIDER_NETWORKS: dict[str, Callable[[], keras.Model]] = {}  # filled by `wider_networks`
# What holds of a network by design, and is worth a test of its own.
WITH_FLOAT_LAYERS: set[str] = set()
FULLY_IN_XNNPACK: set[str] = set()


def network(
    *, float_layers: bool = False, xnnpack: bool = False, wider: bool = False
) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    """Register a function that builds a network.

    Args:
        float_layers: some layer of it has no integer form.
        xnnpack: every operator of its integer file has an XNNPACK kernel.
        wider: it has operators beyond those of plain classifiers.
    """

    def register(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        (WIDER_NETWORKS if wider else NETWORKS)[build.__name__] = build
        if float_layers:
            WITH_FLOAT_LAYERS.add(build.__name__)
        if xnnpack:
            FULLY_IN_XNNPACK.add(build.__name__)
        return build

    return register


def build(name: str) -> keras.Model:
    """The network of that name."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(zlib.crc32(name.encode()))
    model = {**NETWORKS, **WIDER_NETWORKS}[name]()
    randomize_batch_norms(model)
    return model


def randomize_batch_norms(model: keras.Model) -> None:
    """Give every BatchNormalization the statistics and factors of a trained one."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            channels = layer.moving_mean.shape
            layer.gamma.assign(rng.uniform(0.5, 1.5, channels))
            layer.beta.assign(rng.normal(0, 0.3, channels))
            layer.moving_mean.assign(rng.normal(0, 0.3, channels))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, channels))


def images_for(model: keras.Model, count: int = IMAGES) -> list[np.ndarray]:
    """Random images, one array float32 [count, ...] for each input."""
    rng = np.random.default_rng(2)
    return [
        rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs
    ]


def image(*shape: int, name: str = "image") -> keras.KerasTensor:
    return keras.Input(shape or (8, 8, 3), name=name)


def conv(filters: int = 6, kernel: int = 3, activation: str | None = "relu", **options):
    options = {"padding": "same", "bias_initializer": "random_normal", **options}
    return layers.Conv2D(filters, kernel, activation=activation, **options)


def chain(*body: layers.Layer) -> keras.Model:
    """An input and the layers after it."""
    inputs = outputs = image()
    for layer in body:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


# --- convolutions ---


@network(xnnpack=True)
def conv_strided() -> keras.Model:
    return chain(conv(strides=2), conv(8, strides=(2, 2), activation=None))


@network(xnnpack=True)
def conv_valid() -> keras.Model:
    return chain(conv(padding="valid"), conv(5, 2, padding="valid", strides=2, activation=None))


@network(xnnpack=True)
def conv_dilated() -> keras.Model:
    return chain(conv(dilation_rate=2), conv(5, dilation_rate=2, padding="valid", activation=None))


@network(xnnpack=True)
def conv_grouped() -> keras.Model:
    return chain(conv(6), conv(4, groups=2), conv(9, 1, activation=None))


@network(xnnpack=True)
def conv_rectangular() -> keras.Model:
    return chain(conv(kernel=(1, 5)), conv(4, kernel=(4, 2), activation="relu6"), conv(2, 1))


@network(xnnpack=True)
def conv_without_activations() -> keras.Model:
    return chain(conv(activation=None), conv(7, activation=None), conv(3, activation=None))


@network(xnnpack=True)
def one_channel() -> keras.Model:
    inputs = image(9, 7, 1)
    return keras.Model(inputs, conv(1)(conv(1, activation=None)(conv(1)(inputs))))


@network(xnnpack=True)
def dead_channels() -> keras.Model:
    inputs = image()
    killed, after, last = conv(5), conv(5), conv(4, activation=None)
    model = keras.Model(inputs, last(after(killed(inputs))))
    kernel, bias = killed.get_weights()
    kernel[..., 1], bias[1] = 0.0, 0.25  # constant
    kernel[..., 3], bias[3] = 0.0, -0.25  # zero after the ReLU
    killed.set_weights([kernel, bias])
    kernel, bias = after.get_weights()
    kernel[..., 0], bias[0] = 0.0, 0.0
    kernel[..., 2] = 1e-9
    after.set_weights([kernel, bias])
    return model


@network(xnnpack=True)
def bias_beyond_the_accumulator() -> keras.Model:
    """Channels all but switched off, whose biases are 2^32 steps of their accumulators."""
    inputs = image()
    faint = conv(5)
    model = keras.Model(inputs, conv(4, activation=None)(faint(inputs)))
    kernel, bias = faint.get_weights()
    kernel[..., 2], bias[2] = 1e-9, 30.0
    kernel[..., 3], bias[3] = 1e-9, -30.0
    faint.set_weights([kernel, bias])
    return model


@network(xnnpack=True)
def depthwise() -> keras.Model:
    return chain(
        conv(5),
        layers.DepthwiseConv2D(3, padding="same", activation="relu6"),
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        conv(4, 1, activation=None),
    )


@network(xnnpack=True)
def depthwise_multiplier() -> keras.Model:
    return chain(
        layers.DepthwiseConv2D(3, depth_multiplier=3, padding="valid", activation="relu"),
        layers.DepthwiseConv2D(2, depth_multiplier=2, padding="same", dilation_rate=2),
    )


@network(xnnpack=True)
def separable() -> keras.Model:
    return chain(
        layers.SeparableConv2D(6, 3, padding="same", activation="relu"),
        layers.SeparableConv2D(5, 3, depth_multiplier=2, strides=2, padding="same"),
    )


# --- Dense, Flatten, softmax ---


@network(xnnpack=True)
def dense_after_flatten() -> keras.Model:
    return chain(
        conv(4, strides=2),
        layers.Flatten(),
        layers.Dense(9, activation="relu"),
        layers.Dense(5),
    )


@network(xnnpack=True)
def dense_on_images() -> keras.Model:
    return chain(conv(4), layers.Dense(6, activation="relu"), layers.Dense(3))


@network(xnnpack=True)
def dense_only() -> keras.Model:
    inputs = image(13, name="features")
    hidden = layers.Dense(11, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.Dropout(0.5)(hidden)))


@network()
def softmax_classifier() -> keras.Model:
    return chain(
        conv(6),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.2),
        layers.Dense(5),
        layers.Softmax(),
    )


# --- BatchNormalization and activations ---


@network(xnnpack=True)
def batch_norm_after_conv() -> keras.Model:
    return chain(
        conv(6, activation=None, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        conv(5, 1, activation=None),
        layers.BatchNormalization(),
    )


@network(xnnpack=True)
def batch_norm_elsewhere() -> keras.Model:
    return chain(
        layers.BatchNormalization(),
        conv(6),
        layers.BatchNormalization(),
        layers.ReLU(),
        conv(5, activation=None),
        layers.GlobalAveragePooling2D(),
        layers.Dense(7),
        layers.BatchNormalization(),
    )


@network(xnnpack=True)
def relu_apart() -> keras.Model:
    """A linear output that is read with and without its ReLU, which then cannot be fused."""
    inputs = image()
    linear = conv(6, activation=None)(inputs)
    return keras.Model(inputs, layers.Add()([layers.ReLU()(linear), conv(6)(linear)]))


@network(xnnpack=True)
def relu6_apart() -> keras.Model:
    inputs = image()
    linear = conv(6, activation=None)(inputs)
    return keras.Model(inputs, [layers.ReLU(6.0)(linear), conv(3)(linear)])


# --- joins ---


@network(xnnpack=True)
def residual() -> keras.Model:
    inputs = image()
    x = conv(6)(inputs)
    y = conv(6, activation=None)(conv(6)(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    y = conv(6, activation=None)(conv(6)(x))
    x = layers.ReLU(6.0)(layers.Add()([y, x]))
    return keras.Model(inputs, conv(5, strides=2, activation=None)(x))


@network(xnnpack=True)
def add_of_differing_scales() -> keras.Model:
    """One term fifty times the other, and no activation after the sum."""
    inputs = image()
    small, large = conv(6, activation=None), conv(6, activation=None)
    joined = layers.Add()([small(inputs), large(inputs)])
    model = keras.Model(inputs, conv(4, activation=None)(joined))
    small.set_weights([array / 50 for array in small.get_weights()])
    return model


@network(xnnpack=True)
def add_of_three() -> keras.Model:
    inputs = image()
    x = conv(5)(inputs)
    branches = [x, conv(5, 1, activation=None)(x), conv(5, 1)(x)]
    return keras.Model(inputs, conv(4)(layers.ReLU()(layers.Add()(branches))))


@network(xnnpack=True)
def add_of_itself() -> keras.Model:
    inputs = image()
    x = conv(5)(inputs)
    return keras.Model(inputs, conv(4)(layers.Add()([x, x])))


@network(xnnpack=True)
def concatenate_on_one_scale() -> keras.Model:
    """Branches that nobody else reads take the scale of the result."""
    inputs = image()
    x = conv(6)(inputs)
    joined = layers.Concatenate()([conv(3)(x), conv(5, 1)(x), conv(2, activation=None)(x)])
    return keras.Model(inputs, conv(4, activation=None)(joined))


@network(xnnpack=True)
def concatenate_requantized() -> keras.Model:
    """A term that others read too, or that a pool writes, keeps a scale of its own."""
    inputs = image()
    x = conv(6)(inputs)
    y = conv(4, activation=None)(x)
    joined = layers.Concatenate()([x, y, layers.MaxPooling2D(3, strides=1, padding="same")(x)])
    outputs = layers.Add()([conv(4)(joined), y])
    return keras.Model(inputs, conv(3, activation=None)(outputs))


@network(xnnpack=True)
def concatenate_flat() -> keras.Model:
    inputs = image()
    x = conv(6)(inputs)
    heads = [layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(conv(4)(x))]
    return keras.Model(inputs, layers.Dense(5)(layers.Concatenate()(heads)))


# --- pools and padding ---


@network()
def pools() -> keras.Model:
    return chain(
        conv(6),
        layers.MaxPooling2D(2),
        conv(5, activation=None),
        layers.MaxPooling2D(3, strides=1, padding="same"),
        conv(4),
        layers.AveragePooling2D(3, strides=1, padding="same"),
        conv(3),
        layers.AveragePooling2D(2),
    )


@network()
def signed_average_pool() -> keras.Model:
    return chain(conv(5, activation=None), layers.AveragePooling2D(2), conv(4, 1, activation=None))


@network(xnnpack=True)
def global_pool() -> keras.Model:
    return chain(
        conv(6), conv(8, activation=None), layers.GlobalAveragePooling2D(keepdims=True), conv(5, 1)
    )


@network(xnnpack=True)
def zero_padding() -> keras.Model:
    return chain(
        layers.ZeroPadding2D(1),
        conv(5, padding="valid", strides=2),
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        conv(6, padding="valid", activation=None),
        layers.ZeroPadding2D(1),
        conv(3, padding="valid"),
    )


# --- shapes of models ---


@network(xnnpack=True)
def several_outputs() -> keras.Model:
    inputs = image()
    x = conv(6)(inputs)
    y = conv(4, strides=2)(x)
    logits = layers.Dense(3)(layers.GlobalAveragePooling2D()(y))
    return keras.Model(inputs, {"logits": logits, "features": y, "early": x})


@network(xnnpack=True)
def several_inputs() -> keras.Model:
    left, right = image(8, 8, 3, name="left"), image(4, 4, 2, name="right")
    x = layers.Add()([conv(5, strides=2)(left), conv(5, activation=None)(right)])
    return keras.Model([left, right], conv(4, activation=None)(x))


@network(xnnpack=True)
def sequential() -> keras.Model:
    return keras.Sequential(
        [image(), conv(6), conv(6, activation=None), layers.ReLU(), conv(3, strides=2)]
    )


@network(xnnpack=True)
def nested() -> keras.Model:
    inner_inputs = image(8, 8, 4, name="inner_image")
    y = conv(4, activation=None)(conv(4)(inner_inputs))
    block = keras.Model(inner_inputs, layers.ReLU()(layers.Add()([inner_inputs, y])), name="block")
    inputs = image()
    return keras.Model(inputs, conv(3)(block(conv(4)(inputs))))


@network(xnnpack=True)
def shared_layer() -> keras.Model:
    inputs = image()
    x = conv(5)(inputs)
    shared = conv(5)
    return keras.Model(inputs, conv(4, activation=None)(layers.Add()([shared(shared(x)), x])))


# --- layers without an integer form ---


@network(float_layers=True)
def lambda_in_the_middle() -> keras.Model:
    return chain(
        conv(6), layers.Lambda(lambda x: keras.ops.sin(x), output_shape=(8, 8, 6)), conv(4)
    )


@network(float_layers=True)
def float_branch() -> keras.Model:
    """The same tensor read by integers and in float."""
    inputs = image()
    x = conv(6)(inputs)
    y = layers.LayerNormalization(axis=[1, 2, 3], gamma_initializer="random_normal")(x)
    return keras.Model(inputs, [conv(4)(x), conv(3, activation=None)(y)])


@network(float_layers=True)
def float_at_both_ends() -> keras.Model:
    return chain(
        layers.UnitNormalization(),
        conv(6),
        conv(4, activation=None),
        layers.Lambda(lambda x: keras.ops.cos(x), output_shape=(8, 8, 4)),
    )


@network()
def pool_of_one_pixel() -> keras.Model:
    """The converter leaves a mean over one pixel out; the scale of its output is its own."""
    return chain(
        conv(8, strides=(3, 3), padding="valid"),
        layers.AveragePooling2D(2, padding="same"),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(6, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4),
    )
