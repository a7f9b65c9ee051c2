"""Networks of the operators beyond plain classifiers; tiny, and random, as in `keras_networks`."""

from __future__ import annotations

import keras
from keras import layers, ops
from keras_networks import conv, image, network


def _stem() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    inputs = image(12, 12, 3)
    return inputs, conv(8)(inputs)


@network(wider=True)
def activations() -> keras.Model:
    inputs, x = _stem()
    for name in ("leaky_relu", "elu", "tanh", "hard_sigmoid", "hard_swish", "silu", "gelu"):
        x = layers.Conv2D(8, 1, activation=name)(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")(layers.Conv2D(8, 1)(x))
    return keras.Model(inputs, layers.Conv2D(4, 1, activation="sigmoid")(x))


@network(wider=True)
def activation_layers() -> keras.Model:
    """The functions that change little below zero, with slopes and in forms of their own."""
    inputs, x = _stem()
    x = layers.LeakyReLU(0.1)(layers.Conv2D(8, 1)(x))
    x = layers.ReLU(negative_slope=0.2)(layers.Conv2D(8, 1)(x))
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(layers.Conv2D(8, 1)(x))
    x = layers.ELU()(layers.Conv2D(8, 1)(x))
    x = ops.relu6(layers.Conv2D(8, 1)(x)) - ops.tanh(layers.Conv2D(8, 1)(x))
    return keras.Model(inputs, layers.Activation("gelu")(layers.Conv2D(4, 1)(x)))


@network(wider=True)
def squeeze_and_excitation() -> keras.Model:
    inputs, x = _stem()
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1)(layers.Conv2D(4, 1, activation="relu")(gate))
    gate = layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)
    x = layers.Multiply()([x, gate])
    return keras.Model(inputs, layers.Subtract()([x, layers.Conv2D(8, 1)(x)]))


@network(wider=True)
def unet() -> keras.Model:
    inputs, x = _stem()
    low = conv(16)(layers.MaxPooling2D()(x))
    high = layers.Conv2DTranspose(8, 3, strides=2, padding="same", use_bias=False)(low)
    high = layers.ReLU()(layers.BatchNormalization()(high))
    x = layers.Concatenate()([x, high, layers.UpSampling2D(2)(low)])
    x = layers.Cropping2D(1)(conv(8, activation=None)(x))
    return keras.Model(inputs, layers.Conv2DTranspose(4, 2, strides=2)(x))


def _transposed(filters: int, kernel: int, **options) -> layers.Layer:
    options = {"padding": "same", "bias_initializer": "random_normal", **options}
    return layers.Conv2DTranspose(filters, kernel, **options)


@network(wider=True)
def transposed() -> keras.Model:
    """Kernels wider than the stride, as wide, and narrower: there outputs lie between them."""
    inputs = image(6, 5, 3)
    x = _transposed(6, 3, padding="valid", activation="relu")(inputs)
    x = _transposed(5, 4, strides=2, activation="relu6")(x)
    x = _transposed(7, 1, strides=2)(conv(6, strides=2)(x))
    return keras.Model(inputs, _transposed(4, 2, strides=3, activation="relu")(x))


@network(wider=True)
def transposed_without_bias() -> keras.Model:
    """The converter does not fuse this ReLU."""
    inputs = image(6, 5, 3)
    x = _transposed(6, 3, strides=2, use_bias=False, activation="relu")(inputs)
    return keras.Model(inputs, conv(4)(conv(5)(x)))


@network(wider=True)
def resized() -> keras.Model:
    inputs, x = _stem()
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Resizing(10, 10)(layers.Conv2D(8, 1)(x))
    x = layers.Resizing(7, 9, interpolation="nearest")(conv(8)(x))
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(x))


@network(wider=True)
def one_dimensional() -> keras.Model:
    inputs = image(48, 6, name="sound")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.DepthwiseConv1D(3, padding="same")(x))
    x = layers.SeparableConv1D(12, 3, padding="same", activation="relu6")(x)
    x = layers.AveragePooling1D(2)(layers.MaxPooling1D(2)(x))
    x = layers.Conv1D(8, 2, dilation_rate=2)(layers.Cropping1D(1)(layers.ZeroPadding1D(2)(x)))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


@network(wider=True)
def parts() -> keras.Model:
    """Halves of the channels that go ways of their own, every second pixel, a column."""
    inputs, x = _stem()
    left, right = ops.split(x, 2, axis=-1)
    right = layers.DepthwiseConv2D(3, padding="same", activation="relu")(right)
    x = layers.Concatenate()([left, right, x[:, ::-1, :, 2:5]])
    x = layers.Conv2D(8, 1)(ops.concatenate([x[:, ::2, 1::2], x[:, 1::2, ::2]], axis=-1))
    first, middle, last = ops.split(conv(6)(x), [1, 4], axis=2)
    x = layers.Concatenate(axis=2)([last, middle, first])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x[..., 3, :])))


@network(wider=True)
def one_dimensional_unet() -> keras.Model:
    inputs = image(24, 5, name="sound")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(inputs)
    low = layers.Conv1D(12, 3, strides=2, padding="same", activation="relu")(x)
    options = {"padding": "same", "bias_initializer": "random_normal"}
    high = layers.Conv1DTranspose(8, 4, strides=2, activation="relu", **options)(low)
    x = layers.Concatenate()([x, high, layers.UpSampling1D(2)(low)])
    return keras.Model(inputs, layers.Conv1DTranspose(3, 3, strides=2, **options)(x))


@network(wider=True)
def causal() -> keras.Model:
    """A WaveNet: gates that read one tensor, which no output may see the future of."""
    inputs = image(24, 4, name="sound")
    x = layers.Conv1D(8, 3, strides=2, padding="causal")(inputs)
    for dilation in (1, 4):
        options = {"dilation_rate": dilation, "padding": "causal"}
        values = layers.Conv1D(8, 2, activation="tanh", **options)(x)
        gate = layers.Conv1D(8, 2, activation="sigmoid", **options)(x)
        x = layers.Add()([x, layers.Conv1D(8, 1)(layers.Multiply()([values, gate]))])
    return keras.Model(inputs, layers.Conv1D(4, 1)(x))


@network(wider=True)
def moved() -> keras.Model:
    inputs = image(12, 12, 3)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(inputs)
    x = conv(8, padding="valid")(layers.Rescaling(2.0, 0.5)(x))
    x = layers.Conv2D(12, 1)(layers.Permute((2, 1, 3))(layers.ZeroPadding2D(1)(x)))
    x = ops.depth_to_space(x, 2)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


@network(wider=True)
def hard_swishes() -> keras.Model:
    inputs, x = _stem()
    for _ in range(6):
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.ReLU(6.0)(layers.Conv2D(8, 1)(gate) + 3.0) * (1.0 / 6.0)
        x = layers.Multiply()([layers.Conv2D(8, 1, activation="hard_swish")(x), gate])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


@network(wider=True)
def selu() -> keras.Model:
    inputs, x = _stem()
    x = layers.Activation("selu")(layers.Conv2D(8, 1)(conv(6, activation="selu")(x)))
    return keras.Model(inputs, conv(4)(ops.selu(x)))


@network(wider=True)
def prelus() -> keras.Model:
    """Slopes of very different sizes, after images and after vectors, and a single one."""
    inputs, x = _stem()
    slopes = keras.initializers.RandomNormal(0.0, 2.0)
    x = layers.PReLU(slopes, shared_axes=[1, 2])(conv(8, activation=None)(x))
    x = layers.PReLU(slopes, shared_axes=[1, 2])(conv(1, activation=None)(x))
    x = layers.PReLU(slopes)(layers.Dense(6)(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Dense(4)(x))


@network(wider=True, xnnpack=True)
def averages() -> keras.Model:
    """Of two and of three, one of them with a ReLU behind it, and of a tensor with itself."""
    inputs, x = _stem()
    x = layers.Average()([x, conv(8, activation=None)(x)])
    x = layers.ReLU()(layers.Average()([conv(8, 1)(x), x, conv(8, activation=None)(x)]))
    return keras.Model(inputs, layers.Average()([x, x]))


@network(wider=True)
def extrema() -> keras.Model:
    """Branches that take the scale of the result, and tensors that others read or that are fixed.

    One branch of a maximum is never negative, so that nothing below zero is left of the other.
    """
    inputs, x = _stem()
    x = layers.Maximum()([conv(8, 1, activation=None)(x), conv(8, activation=None)(x)])
    y = layers.Minimum()([conv(8, 1)(x), x, conv(8, 1, activation="relu6")(x)])
    x = layers.ReLU()(layers.Maximum()([conv(8, activation=None)(y), x]))
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(y)
    x = ops.maximum(ops.maximum(conv(8, activation=None)(pooled), pooled), x)
    return keras.Model(inputs, ops.minimum(x, conv(8, activation="sigmoid")(x)))


@network(wider=True)
def layer_norms() -> keras.Model:
    """After a convolution over channels, over everything, and of a vector; with weights or none."""
    inputs, x = _stem()
    x = layers.LayerNormalization(beta_initializer="random_normal")(conv(8, activation=None)(x))
    x = layers.LayerNormalization(axis=[1, 2, 3], center=False)(layers.Conv2D(8, 1)(x))
    x = layers.LayerNormalization(center=False, scale=False)(layers.Conv2D(8, 1)(x))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(conv(8)(x)))
    return keras.Model(inputs, layers.Dense(4)(x))
