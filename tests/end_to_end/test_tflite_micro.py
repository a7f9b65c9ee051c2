"""TensorFlow Lite Micro, for microcontrollers: what of the exported files it runs, and how exactly.

Its kernels round as LiteRT's reference kernels do, but for FULLY_CONNECTED, where Micro rounds
twice and the reference once: operator by operator the two can be compared. XNNPACK, LiteRT's
default, rounds otherwise in a few of a hundred cases, so against it only the classes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import keras
import keras_networks
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from exported_networks import CONFIGS, exported
from integer_reference import expose_all_tensors
from keras import layers
from keras_networks import conv
from runtimes import as_stored, interpreter, operator_names, outputs

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.converters.integer_operators import INT8_VERSIONS
from tflite_ptq4.pipeline import QuantizedModel
from tflite_ptq4.tflite_fields import OPERATOR_NAMES

tflite_micro = pytest.importorskip(
    "tflite_micro", reason="tflite-micro is not installed; its wheels are for Linux on x86-64"
)

ARENA_BYTES = 1 << 21
CLASSES = 10
IMAGES = 64
INTEGER_NETWORKS = sorted(set(keras_networks.NETWORKS) - keras_networks.WITH_FLOAT_LAYERS)


def micro_outputs(data: bytes, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a file in their order, as `runtimes.outputs` gives those of LiteRT."""
    ready = tflite_micro.runtime.Interpreter.from_bytes(data, arena_size=ARENA_BYTES)
    found: list[list[np.ndarray]] = [[] for _ in interpreter(data).get_output_details()]
    for position in range(len(images[0])):
        for place, values in enumerate(images):
            ready.set_input(values[position : position + 1], place)
        ready.invoke()
        for place, values in enumerate(found):
            values.append(ready.get_output(place).copy())
    return [np.concatenate(values) for values in found]


def stored(data: bytes, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    details = interpreter(data).get_input_details()
    return [as_stored(values, detail) for values, detail in zip(images, details, strict=True)]


def steps_apart(
    data: bytes, images: Sequence[np.ndarray], runtime: str = "litert_reference"
) -> dict[str, int]:
    """How far Micro is from a runtime of LiteRT in what each kind of operator writes.

    Only images count for which an operator reads the same integers in both.
    """
    exposed, given = expose_all_tensors(data), stored(data, images)
    indices = [int(detail["index"]) for detail in interpreter(exposed).get_output_details()]
    steps = {}
    for index, ours, theirs in zip(
        indices,
        micro_outputs(exposed, given),
        outputs(exposed, given, runtime),
        strict=True,
    ):
        apart = np.abs(ours.astype(int) - theirs)
        steps[index] = apart.reshape(len(images[0]), -1).max(axis=1)
    largest: dict[str, int] = {}
    operators = schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0].operators
    for name, operator in zip(operator_names(data), operators, strict=True):
        read = sum(steps[int(index)] for index in operator.inputs if int(index) in steps)
        comparable = np.broadcast_to(read == 0, len(images[0]))
        if comparable.any():
            written = int(steps[int(operator.outputs[0])][comparable].max())
            largest[name] = max(largest.get(name, 0), written)
    return largest


# --- networks that tell ten patterns apart ---


def blocks() -> keras.Model:
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(y))
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def flattened() -> keras.Model:
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling2D()(layers.Conv2D(16, 1, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(32, activation="relu")(layers.Flatten()(x)))


BODIES = {"blocks": blocks, "flattened": flattened}


@cache
def classifier(body: str) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A random body, a last layer fitted to patterns in noise, the images for that, and others.

    The patterns are clear: on an image between two classes, one step of rounding decides.
    """
    keras.utils.set_random_seed(0)
    features = BODIES[body]()
    keras_networks.randomize_batch_norms(features)
    last = layers.Dense(CLASSES)
    model = keras.Model(features.input, last(features.output))
    rng = np.random.default_rng(0)
    patterns = np.kron(rng.normal(size=(CLASSES, 4, 4, 3)), np.ones((1, 4, 4, 1)))
    labels = np.arange(2 * IMAGES) % CLASSES
    images = patterns[labels] + 0.25 * rng.normal(size=(2 * IMAGES, 16, 16, 3))
    images = images.astype(np.float32)
    read = np.asarray(features(images[:IMAGES]))
    read = np.append(read, np.ones((IMAGES, 1)), axis=1)
    fitted = np.linalg.lstsq(read, np.eye(CLASSES)[labels[:IMAGES]], rcond=1e-2)[0]
    last.set_weights([fitted[:-1], fitted[-1]])
    return model, images[:IMAGES], images[IMAGES:]


@cache
def quantized(body: str, preset: str, dense_bits: int | None = None) -> QuantizedModel:
    model, images, _ = classifier(body)
    rules = () if dense_bits is None else (LayerRule(layer_type="Dense", weight_bits=dense_bits),)
    config = QuantizationConfig.preset(preset, rules=rules)
    return quantize_model(model, calibrate(model, images), config, images=images)


# --- the same classes as in LiteRT ---


def assert_same_classes(data: bytes, images: np.ndarray) -> None:
    given = stored(data, [images])
    (ours,), (theirs,) = micro_outputs(data, given), outputs(data, given)
    classes = theirs.argmax(axis=-1)
    assert len(set(classes.tolist())) == CLASSES
    np.testing.assert_array_equal(ours.argmax(axis=-1), classes)


@pytest.mark.parametrize("io", ["float32", "int8"])
@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w4a4"])
@pytest.mark.parametrize("body", BODIES)
def test_an_int8_file_gives_the_classes_of_litert(body: str, preset: str, io: str) -> None:
    data = quantized(body, preset).to_tflite("int8_container", io=io)
    assert_same_classes(data, classifier(body)[2])


@pytest.mark.parametrize("io", ["float32", "int8"])
@pytest.mark.parametrize("preset", ["w4a8", "w4a4"])
def test_packed_convolutions_give_the_classes_of_litert(preset: str, io: str) -> None:
    data = quantized("blocks", preset).to_tflite("packed_int4", io=io, layout="smallest")
    assert len(data) < len(quantized("blocks", preset).to_tflite("int8_container", io=io))
    assert_same_classes(data, classifier("blocks")[2])


def test_packed_convolutions_before_a_dense_layer_of_8_bits_do_too() -> None:
    made = quantized("flattened", "w4a8", dense_bits=8)
    data = made.to_tflite("packed_int4", layout="smallest")
    assert len(data) < len(made.to_tflite("int8_container"))
    assert_same_classes(data, classifier("flattened")[2])


# --- equal to the reference kernels ---


def assert_as_the_reference(data: bytes, images: Sequence[np.ndarray]) -> None:
    steps = steps_apart(data, images)
    assert steps.keys() == set(operator_names(data))
    assert steps.pop("FULLY_CONNECTED", 0) <= 1
    assert not any(steps.values()), steps


@pytest.mark.parametrize("config", ["w8a8", "w4a4_signed4"])
@pytest.mark.parametrize("network", INTEGER_NETWORKS)
def test_an_int8_file_computes_what_the_reference_kernels_do(network: str, config: str) -> None:
    made = exported(network, config)
    assert_as_the_reference(made.file(io="int8"), made.images)


@pytest.mark.parametrize(
    "network", ["residual", "depthwise", "separable", "pools", "pool_of_one_pixel"]
)
def test_so_does_a_packed_one(network: str) -> None:
    made = exported(network, "w4a8")
    data = made.quantized.to_tflite("packed_int4", io="int8", layout="smallest")
    assert_as_the_reference(data, made.images)


def test_a_difference_is_found() -> None:
    """Against XNNPACK in place of the reference kernels, convolutions would not pass."""
    made = exported("residual", "w8a8")
    assert steps_apart(made.file(io="int8"), made.images, "litert")["CONV_2D"] == 1


def further_operators() -> keras.Model:
    """Those that the networks of the other tests do not have."""
    inputs = keras_networks.image()
    x = conv(8)(inputs)
    for activation in ("leaky_relu", "tanh", "sigmoid", "hard_swish"):
        x = conv(8, 1, activation=activation)(x)
    x = layers.PReLU("random_normal", shared_axes=[1, 2])(conv(8, 1, activation=None)(x))
    x = layers.Minimum()([layers.Maximum()([x, conv(8, 1, activation=None)(x)]), conv(8, 1)(x)])
    x = layers.Subtract()([x, conv(8, 1)(x)])
    x = layers.Cropping2D(1)(conv(8, 1)(layers.UpSampling2D(2)(x)))
    x = conv(8, 1)(layers.UpSampling2D(2, interpolation="bilinear")(x))
    x = layers.Conv2DTranspose(8, 2, strides=2)(x)
    x = layers.Permute((2, 1, 3))(keras.ops.depth_to_space(x, 2))
    x = layers.LayerNormalization()(conv(8, 1)(x))
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(conv(4, 1)(x)))


@cache
def int8_file(build: Callable[[], keras.Model]) -> tuple[bytes, list[np.ndarray]]:
    keras.utils.set_random_seed(0)
    model = build()
    images = keras_networks.images_for(model)
    made = quantize_model(model, calibrate(model, images[0]), CONFIGS["w8a8"])
    return made.to_tflite("int8_container", io="int8"), images


def with_activation(name: str) -> Callable[[], keras.Model]:
    return lambda: keras_networks.chain(conv(activation=name), conv())


def test_further_operators_compute_what_the_reference_kernels_do() -> None:
    assert_as_the_reference(*int8_file(further_operators))


def test_elu_has_no_reference_kernel_and_is_near_the_other_one() -> None:
    assert steps_apart(*int8_file(with_activation("elu")), "litert")["ELU"] <= 1


def test_every_operator_that_the_int8_target_writes_is_among_them() -> None:
    found = set(operator_names(int8_file(further_operators)[0]))
    for network in INTEGER_NETWORKS:
        found |= set(operator_names(exported(network, "w8a8").file(io="int8")))
    fused = {"RELU", "RELU6"}
    assert {OPERATOR_NAMES[code] for code in INT8_VERSIONS} - found == {"ELU", "GELU"} | fused


@pytest.mark.parametrize("config", ["w4a4", "paper_w4a4"])
@pytest.mark.parametrize("network", ["residual", "softmax_classifier", "concatenate_requantized"])
def test_a_float_simulated_file_computes_what_litert_does(network: str, config: str) -> None:
    """But for a value near a tie, which sums of another order may bring to its other side."""
    made = exported(network, config)
    data = made.file("float_simulated")
    (ours,), (theirs,) = micro_outputs(data, made.images), outputs(data, made.images)
    assert np.isclose(ours, theirs, rtol=1e-5, atol=1e-6).mean() > 0.99


# --- what it has no kernel for ---


@pytest.mark.parametrize(
    ("body", "layout"), [("flattened", "smallest"), ("flattened", "fast"), ("blocks", "fast")]
)
def test_packed_dense_layers_are_refused(
    body: str, layout: str, capfd: pytest.CaptureFixture
) -> None:
    """A Dense layer of 4 bits, and in layout `fast` a 1x1 convolution, which becomes one."""
    data = quantized(body, "w4a8").to_tflite("packed_int4", layout=layout)
    with pytest.raises(RuntimeError, match="TFLM failed to allocate tensors"):
        micro_outputs(data, [classifier(body)[2]])
    said = capfd.readouterr().err
    assert "input->type == kTfLiteInt8 && filter->type != kTfLiteInt4" in said
    assert "Node FULLY_CONNECTED" in said


def test_gelu_is_missing(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="TFLM failed to allocate tensors"):
        steps_apart(*int8_file(with_activation("gelu")))
    assert "Didn't find op for builtin opcode 'GELU'" in capfd.readouterr().err
