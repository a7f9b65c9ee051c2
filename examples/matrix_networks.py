"""The networks that `network_matrix.py` measures, with random weights, and images for them."""

from __future__ import annotations

# Smallest input sizes of keras.applications with include_top=True and weights=None.
APPLICATIONS = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
}


def unet():
    """Two levels down and up, with skip concatenations."""
    import keras
    from keras import layers

    def block(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((64, 64, 3))
    first = block(inputs, 16)
    second = block(layers.MaxPooling2D()(first), 32)
    x = block(layers.MaxPooling2D()(second), 64)
    for skip, filters in ((second, 32), (first, 16)):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x), name="unet")


def ssd_head():
    """Two feature maps, boxes and classes of each: four outputs."""
    import keras
    from keras import layers

    inputs = keras.Input((96, 96, 3))
    x, outputs = inputs, {}
    for level, filters in enumerate((16, 32, 64, 64)):
        x = layers.SeparableConv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        if level >= 2:
            outputs[f"boxes_{level}"] = layers.Conv2D(12, 3, padding="same")(x)
            outputs[f"classes_{level}"] = layers.Conv2D(9, 3, padding="same")(x)
    return keras.Model(inputs, outputs, name="ssd_head")


def super_resolution():
    """ESPCN: convolutions at low resolution, then depth-to-space."""
    import keras
    from keras import layers, ops

    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 5, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = ops.depth_to_space(layers.Conv2D(12, 3, padding="same")(x), 2)
    return keras.Model(inputs, x, name="super_resolution")


def keyword_spotting():
    """One-dimensional convolutions over 49 frames of 40 features."""
    import keras
    from keras import layers

    inputs = keras.Input((49, 40))
    x = inputs
    for filters, stride in ((32, 1), (48, 2), (64, 2)):
        x = layers.Conv1D(filters, 9, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.SeparableConv1D(filters, 9, padding="same", activation="relu")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x), name="keyword_spotting")


OTHERS = {
    "UNet": unet,
    "SSDHead": ssd_head,
    "SuperResolution": super_resolution,
    "KeywordSpotting": keyword_spotting,
}


def build(name: str):
    """The network of that name, random weights from a fixed seed."""
    import keras

    keras.utils.set_random_seed(0)
    if name in OTHERS:
        return OTHERS[name]()
    size = APPLICATIONS[name]
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None
    )


def random_images(model, count: int):
    """Smooth random images in the range that the network takes, float32 [count, ...]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = model.input_shape[1:]
    coarse = rng.normal(size=(count, *(max(2, size // 8) for size in shape[:-1]), shape[-1]))
    images = coarse
    for axis, size in enumerate(shape[:-1], start=1):
        places = np.linspace(0, images.shape[axis] - 1, size).round().astype(int)
        images = np.take(images, places, axis=axis)
    images = images + 0.3 * rng.normal(size=images.shape)
    scales_inside = any(
        type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers
    )
    return (images * 50 + 128 if scales_inside else images).astype(np.float32)


def settle_batch_norm(model, images) -> None:
    """Give every BatchNormalization the mean and variance of one pass."""
    import keras

    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
