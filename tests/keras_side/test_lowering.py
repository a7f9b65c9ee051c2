"""Folding and fusion: the lowered graph computes what the user's model computes."""

from __future__ import annotations

import inspect
import re

import keras
import numpy as np
import pytest
from keras import layers
from keras_networks import NETWORKS, build, chain, conv, image, images_for, randomize_batch_norms

from tflite_ptq4.errors import ModelError
from tflite_ptq4.graph import Node, last_uses
from tflite_ptq4.keras_side.execution import run_graph, run_primitives
from tflite_ptq4.keras_side.lowering import LoweredModel, lower, require_quantizable
from tflite_ptq4.keras_side.primitives.moving import AUGMENTING_LAYERS


def outputs_of(lowered: LoweredModel, images: list[np.ndarray]) -> list:
    """The outputs of the folded graph, flat."""
    graph = lowered.graph
    values = dict(zip(graph.inputs, images, strict=True))
    for node, _, results in run_graph(lowered, dict(values), keep=graph.outputs):
        values.update(zip(node.outputs, results, strict=True))
    return [values[name] for name in graph.outputs]


def assert_same_function(model: keras.Model) -> LoweredModel:
    """Folded graph and primitives against the model; what is tapped against the graph."""
    lowered, images = lower(model), images_for(model, 3)
    given = images if len(images) > 1 else images[0]
    expected = keras.tree.flatten(model(given, training=False))  # as `predict` calls it
    unfolded = run_primitives(
        lowered.primitives, dict(zip(lowered.trace.inputs, images, strict=True))
    )
    repeated = [unfolded[name] for name in lowered.trace.outputs]
    folded = outputs_of(lowered, images)
    for got, again, want in zip(folded, repeated, expected, strict=True):
        size = float(np.abs(want).max())
        np.testing.assert_allclose(again, want, atol=1e-6 * size)
        np.testing.assert_allclose(got, want, atol=3e-6 * size)
    values = dict(zip(lowered.graph.inputs, images, strict=True))
    for node, _, results in run_graph(lowered, values):
        for name, result in zip(node.outputs, results, strict=True):
            tapped = np.asarray(unfolded[lowered.taps[name]])
            size = max(float(np.abs(tapped).max()), 1e-6)
            np.testing.assert_allclose(result, tapped, atol=3e-6 * size, err_msg=name)
            assert (None, *tapped.shape[1:]) == lowered.graph.shapes[name]
            assert name not in lowered.graph.nonnegative or tapped.min() >= 0, name
    return lowered


def kinds(lowered: LoweredModel) -> list[tuple[str, str | None]]:
    return [(node.kind, node.activation) for node in lowered.graph.nodes]


def node_named(lowered: LoweredModel, name: str) -> Node:
    return next(node for node in lowered.graph.nodes if node.name == name)


def normalized(*body: layers.Layer) -> keras.Model:
    model = chain(*body)
    randomize_batch_norms(model)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_its_function_and_is_not_modified(name: str) -> None:
    model = build(name)
    weights, config = model.get_weights(), model.get_config()
    inbound = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    assert_same_function(model)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == inbound
    np.testing.assert_equal(model.get_weights(), weights)
    assert model.get_config() == config


# --- functions that are several operators ---


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        ("silu", ["gate sigmoid", "multiply"]),
        ("hard_sigmoid", ["moved add relu6", "multiply"]),
        ("selu", ["elu elu", "leaky_relu leaky_relu", "multiply"]),
    ],
)
@pytest.mark.parametrize("form", ["layer", "operation", "activation"])
def test_steps_on_the_way_are_inside_the_layer(function: str, steps: list[str], form: str) -> None:
    inputs = image()
    if form == "activation":
        outputs = layers.Conv2D(4, 1, activation=function, name="whole")(inputs)
    elif form == "layer":
        outputs = layers.Activation(function, name="whole")(layers.Conv2D(4, 1)(inputs))
    else:
        outputs = getattr(keras.ops, function)(layers.Conv2D(4, 1)(inputs))
    nodes = assert_same_function(keras.Model(inputs, outputs)).graph.nodes[1:]
    whole = nodes[-1].layer
    found = [
        " ".join(
            [*node.name[len(whole) + 1 :].split(), node.kind, *filter(None, [node.activation])]
        )
        for node in nodes
    ]
    assert [line.replace("clipped", "moved") for line in found] == steps
    assert [node.inner for node in nodes] == [True] * (len(nodes) - 1) + [False]


@pytest.mark.parametrize(
    ("terms", "steps"), [(2, ["sum"]), (3, ["add2", "sum"]), (4, ["add2", "add3", "sum"])]
)
def test_an_average_is_a_sum_times_a_number(terms: int, steps: list[str]) -> None:
    inputs = image()
    convs = [layers.Conv2D(4, 1)(inputs) for _ in range(terms)]
    model = keras.Model(inputs, layers.Average(name="mean")(convs))
    nodes = assert_same_function(model).graph.nodes[terms:]
    assert [node.name for node in nodes] == [*(f"mean/{step}" for step in steps), "mean"]
    assert [node.kind for node in nodes] == ["add"] * (terms - 1) + ["multiply"]
    assert [node.inner for node in nodes] == [True] * (terms - 1) + [False]
    assert nodes[-1].attributes["constant"] == 1.0 / terms


JOINS = [layers.Add, layers.Average, layers.Multiply, layers.Maximum, layers.Minimum]


@pytest.mark.parametrize(
    ("join", "below_zero"), [(layers.Maximum, []), (layers.Minimum, ["whole", "whole/minimum2"])]
)
def test_one_positive_tensor_is_enough_for_a_maximum(join, below_zero: list[str]) -> None:
    inputs = image()
    terms = [layers.Conv2D(4, 1, activation=f)(inputs) for f in ("relu", None, "relu")]
    graph = assert_same_function(keras.Model(inputs, join(name="whole")(terms))).graph
    assert [node.kind for node in graph.nodes[3:]] == [join.__name__.lower()] * 2
    joined = [node.name for node in graph.nodes[3:]]
    assert [name for name in sorted(joined) if name not in graph.nonnegative] == below_zero


@pytest.mark.parametrize("join", [keras.ops.maximum, keras.ops.minimum])
def test_an_extremum_with_a_number_stays_in_float(join) -> None:
    inputs = image()
    model = keras.Model(inputs, join(layers.Conv2D(4, 1)(inputs), 0.5))
    node = assert_same_function(model).graph.nodes[-1]
    assert (node.kind, "with a constant" in node.reason) == ("float", True)


@pytest.mark.parametrize("join", JOINS)
def test_a_join_of_one_tensor_is_that_tensor(join) -> None:
    inputs = image()
    model = keras.Model(inputs, join()([layers.Conv2D(4, 1)(inputs)]))
    assert kinds(assert_same_function(model)) == [("conv2d", None)]


@pytest.mark.parametrize("join", JOINS)
def test_a_join_of_different_ranks_stays_in_float(join) -> None:
    """Keras gives the smaller one axes after the batch, which no operator does."""
    inputs = image()
    x = layers.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, join()([x, layers.GlobalAveragePooling2D()(x)]))
    node = assert_same_function(model).graph.nodes[-1]
    assert (node.kind, "different ranks" in node.reason) == ("float", True)


@pytest.mark.parametrize("form", [layers.LeakyReLU(0.3), lambda x: keras.ops.leaky_relu(x, 0.3)])
def test_a_leaky_relu_says_its_slope(form) -> None:
    inputs = image()
    model = keras.Model(inputs, form(layers.Conv2D(4, 1)(inputs)))
    assert assert_same_function(model).graph.nodes[-1].attributes["slope"] == 0.3


def test_an_elu_of_another_slope_stays_in_float() -> None:
    inputs = image()
    model = keras.Model(inputs, keras.ops.elu(layers.Conv2D(4, 1)(inputs), alpha=0.5))
    node = assert_same_function(model).graph.nodes[-1]
    assert (node.kind, node.reason) == ("float", "ELU(alpha=0.5) has no integer form, only 1.0")


# --- LayerNormalization ---

LAYER_NORM_STEPS = [
    *("mean mean", "centred subtract", "above relu", "half_deviation mean", "deviation add"),
    *("root_inverse rsqrt", "inverse multiply", "sized multiply", "floor multiply"),
    *("epsilon multiply", "squares multiply", "mean_square mean", "variance add"),
    "size_inverse rsqrt",
]


def layer_norm(shape: tuple[int, ...], **options) -> keras.Model:
    """With random weights; before it a convolution or a Dense."""
    inputs = image(*shape)
    before = layers.Dense(6) if len(shape) < 3 else layers.Conv2D(6, 1)
    outputs = layers.LayerNormalization(name="norm", **options)(before(inputs))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    norm = model.get_layer("norm")
    norm.set_weights([rng.uniform(0.5, 2.0, weight.shape) for weight in norm.get_weights()])
    return model


def norm_steps(model: keras.Model) -> list[str]:
    nodes = assert_same_function(model).graph.nodes[1:]
    outputs = [node.name for node in nodes if not node.inner]
    assert outputs in (["norm"], ["norm/scaled", "norm"])
    return [f"{node.name.removeprefix('norm').removeprefix('/')} {node.kind}" for node in nodes]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 4, 3), {}),
        ((5, 4, 3), {"scale": False}),
        ((5, 4, 3), {"center": False, "epsilon": 0.5}),
        ((7, 3), {"axis": 2, "epsilon": 1e-6}),
    ],
)
def test_a_layer_norm_ends_with_a_factor_per_channel(shape, options: dict) -> None:
    steps = norm_steps(layer_norm(shape, **options))
    assert steps == [*LAYER_NORM_STEPS, "normalized multiply", " depthwise_conv2d"]


@pytest.mark.parametrize("axis", [-1, [1, 2, 3], [1, 2], 1])
def test_a_layer_norm_without_weights_takes_any_axes(axis) -> None:
    steps = norm_steps(layer_norm((5, 4, 3), axis=axis, center=False, scale=False))
    assert steps == [*LAYER_NORM_STEPS, " multiply"]


def test_the_factors_of_a_vector_are_those_of_a_single_pixel() -> None:
    steps = norm_steps(layer_norm((5,)))
    assert steps[len(LAYER_NORM_STEPS) :] == [
        *("normalized multiply", "row reshape", "scaled depthwise_conv2d", " reshape")
    ]


def test_factors_that_are_one_everywhere_are_one_per_channel() -> None:
    model = layer_norm((5, 4, 3), axis=[1, 2, 3], center=False)
    model.get_layer("norm").set_weights([np.full((5, 4, 6), 0.5)])
    node = assert_same_function(model).graph.nodes[-1]
    np.testing.assert_array_equal(node.kernel.ravel(), np.full(6, 0.5))


@pytest.mark.parametrize("value", [0.0, 1e-4, 3.0])
def test_positions_of_no_deviation_give_the_offset(value: float) -> None:
    """All channels alike: nothing is divided by zero on the way."""
    model = layer_norm((2, 2, 6))
    model.layers[1].set_weights([np.eye(6)[None, None], np.zeros(6)])
    lowered = lower(model)
    values = {"image": np.full((1, 2, 2, 6), value, np.float32)}
    for _, _, results in run_graph(lowered, values):
        assert np.all(np.isfinite(np.asarray(results[0])))
    offset = model.get_layer("norm").beta
    np.testing.assert_allclose(results[0], np.broadcast_to(offset, (1, 2, 2, 6)), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((5, 4, 3), {"axis": [1, 2, 3]}, "a factor for every pixel has no integer form"),
        ((5, 4, 3), {"axis": 1}, "a factor for every pixel has no integer form"),
        ((5, 4, 3), {"epsilon": 0.0}, r"epsilon=0.0\) has no integer form"),
    ],
)
def test_a_layer_norm_that_stays_in_float_says_why(shape, options: dict, reason: str) -> None:
    node = assert_same_function(layer_norm(shape, **options)).graph.nodes[-1]
    assert node.kind == "float"
    assert re.search(reason, node.reason)


def test_a_layer_scale_folds_into_the_layer_before_it() -> None:
    from keras.src.applications.convnext import LayerScale

    lowered = assert_same_function(chain(layers.Conv2D(4, 3), LayerScale(0.3, 4)))
    assert kinds(lowered) == [("conv2d", None)]


# --- BatchNormalization ---

BATCH_NORMS = {
    "plain": {},
    "no scale": {"scale": False},
    "no centre": {"center": False},
    "neither": {"scale": False, "center": False},
    "epsilon": {"epsilon": 0.5},
}
BODIES = {
    "conv": lambda: layers.Conv2D(5, 3, use_bias=False),
    "conv with a bias": lambda: layers.Conv2D(5, 3, bias_initializer="random_normal"),
    "grouped": lambda: layers.Conv2D(6, 3, groups=3),
    "depthwise": lambda: layers.DepthwiseConv2D(3),
    "multiplier": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(4, 3),
    "dense": lambda: layers.Dense(5),
    "transposed": lambda: layers.Conv2DTranspose(4, 3, strides=2),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("options", BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_a_batch_norm_folds_into_the_layer_before_it(body, options: dict) -> None:
    model = chain(body(), layers.BatchNormalization(**options))
    batch_norm = model.layers[-1]
    rng = np.random.default_rng(3)
    batch_norm.set_weights([rng.uniform(0.5, 2, w.shape) for w in batch_norm.get_weights()])
    lowered = assert_same_function(model)
    assert all(node.layer_type != "BatchNormalization" for node in lowered.graph.nodes)


def test_the_folded_numbers() -> None:
    """W = 2, b = 1, gamma = 3, beta = 5, mean = 7, variance = 4 (epsilon 0): y = 3 x + b'."""
    model = chain(layers.Conv2D(1, 1, name="conv"), layers.BatchNormalization(epsilon=0.0))
    model.layers[1].set_weights([np.full((1, 1, 3, 1), 2.0), np.array([1.0])])
    model.layers[2].set_weights([np.array([value]) for value in (3.0, 5.0, 7.0, 4.0)])
    node = lower(model).graph.nodes[0]
    np.testing.assert_array_equal(node.kernel.ravel(), [3.0, 3.0, 3.0])  # 2 * 3 / sqrt(4)
    np.testing.assert_array_equal(node.bias, [-4.0])  # (1 - 7) * 3 / 2 + 5


def test_two_batch_norms_and_a_dropout_fold_too() -> None:
    model = normalized(
        layers.Conv2D(4, 3),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.BatchNormalization(),
        layers.GaussianNoise(1.0),
        layers.ReLU(),
    )
    assert kinds(assert_same_function(model)) == [("conv2d", "relu")]


@pytest.mark.parametrize("before", [layers.ReLU, lambda: layers.MaxPooling2D(2)])
def test_a_batch_norm_away_from_a_layer_is_a_depthwise_convolution(before) -> None:
    lowered = assert_same_function(
        normalized(layers.Conv2D(4, 3), before(), layers.BatchNormalization(name="bn"))
    )
    node = node_named(lowered, "bn")
    assert (node.kind, node.kernel.shape) == ("depthwise_conv2d", (1, 1, 4, 1))
    assert node.layer_type == "BatchNormalization"


def test_a_batch_norm_on_features_or_another_axis_stays_in_float() -> None:
    flat = normalized(
        conv(4),
        layers.GlobalAveragePooling2D(),
        layers.BatchNormalization(name="bn"),
        layers.Dense(2),
    )
    assert "BatchNormalization" in node_named(assert_same_function(flat), "bn").reason
    other = normalized(layers.Conv2D(4, 3), layers.BatchNormalization(axis=1, name="bn"))
    assert "axis 1" in node_named(assert_same_function(other), "bn").reason


# --- what may not be merged ---


def _model(connect) -> keras.Model:
    inputs = image()
    model = keras.Model(inputs, connect(inputs))
    randomize_batch_norms(model)
    return model


def test_nothing_is_folded_across_an_output() -> None:
    """The model gives the convolution's own output too."""

    def connect(x):
        linear = layers.Conv2D(4, 3, name="conv")(x)
        return [linear, layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(linear))]

    lowered = assert_same_function(_model(connect))
    assert kinds(lowered) == [("conv2d", None), ("depthwise_conv2d", "relu")]
    assert lowered.graph.outputs == ("conv", "bn")


def test_nothing_is_fused_across_an_output() -> None:
    def connect(x):
        linear = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(x))
        return {"relu": layers.ReLU(name="relu")(linear), "linear": linear}

    lowered = assert_same_function(_model(connect))
    assert kinds(lowered) == [("conv2d", None), ("relu", None)]


def test_an_output_behind_a_dropout_is_the_tensor_itself() -> None:
    def connect(x):
        linear = layers.Conv2D(4, 3, name="conv")(x)
        return [layers.Dropout(0.5)(linear), layers.ReLU(name="relu")(layers.Dropout(0.1)(linear))]

    lowered = assert_same_function(_model(connect))
    assert kinds(lowered) == [("conv2d", None), ("relu", None)]
    assert lowered.graph.outputs == ("conv", "relu")


def test_a_tensor_read_twice_is_kept() -> None:
    def connect(x):
        linear = layers.Conv2D(4, 3, name="conv")(x)
        return layers.Add()([layers.BatchNormalization()(linear), layers.ReLU()(linear)])

    assert kinds(assert_same_function(_model(connect))) == [
        ("conv2d", None),
        ("depthwise_conv2d", None),
        ("relu", None),
        ("add", None),
    ]


def test_a_tensor_added_to_itself_is_read_twice() -> None:
    def connect(x):
        linear = layers.Conv2D(4, 3, name="conv")(x)
        return layers.Add(name="sum")([linear, layers.ReLU(name="relu")(linear)])

    assert kinds(assert_same_function(_model(connect)))[:2] == [("conv2d", None), ("relu", None)]


def test_inner_outputs_of_a_nested_model_are_no_outputs_of_the_whole() -> None:
    inner_image = keras.Input((8, 8, 3))
    linear = layers.Conv2D(4, 3, name="conv")(inner_image)
    inner = keras.Model(inner_image, [linear, layers.ReLU(name="relu")(linear)], name="inner")
    lowered = assert_same_function(_model(lambda x: inner(x)[1]))
    # Keras runs both outputs of the inner model, but nobody reads the linear one.
    assert kinds(lowered) == [("conv2d", "relu")]


def test_a_batch_norm_in_one_nested_model_folds_into_a_layer_of_another() -> None:
    def connect(x):
        first_image, second_image = keras.Input((8, 8, 3)), keras.Input((6, 6, 4))
        first = keras.Model(first_image, layers.Conv2D(4, 3)(first_image), name="first")
        second = keras.Model(second_image, layers.BatchNormalization()(second_image), name="second")
        return second(first(x))

    assert kinds(assert_same_function(_model(connect))) == [("conv2d", None)]


def test_a_shared_layer_is_folded_for_each_call_apart() -> None:
    def connect(x):
        shared = layers.Conv2D(3, 3, padding="same", name="shared")
        first = layers.ReLU()(layers.BatchNormalization()(shared(x)))
        return layers.Add()([first, layers.BatchNormalization()(shared(first))])

    lowered = assert_same_function(_model(connect))
    assert kinds(lowered) == [("conv2d", "relu"), ("conv2d", None), ("add", None)]
    one, two = lowered.graph.weighted_nodes
    assert (one.name, two.name) == ("shared", "shared_call2")
    assert not np.allclose(one.kernel, two.kernel)


# --- ReLU and other activations ---

RELUS = {
    "ReLU": (layers.ReLU, "relu"),
    "ReLU(6)": (lambda: layers.ReLU(6), "relu6"),
    "ReLU(6.0)": (lambda: layers.ReLU(max_value=6.0), "relu6"),
    "Activation('relu')": (lambda: layers.Activation("relu"), "relu"),
    "Activation('relu6')": (lambda: layers.Activation("relu6"), "relu6"),
    "Activation('linear')": (lambda: layers.Activation("linear"), None),
}


@pytest.mark.parametrize(("layer", "fused"), RELUS.values(), ids=RELUS)
def test_a_relu_is_fused_into_the_layer_before(layer, fused: str | None) -> None:
    assert kinds(assert_same_function(chain(layers.Conv2D(4, 3), layer()))) == [("conv2d", fused)]
    alone = kinds(assert_same_function(chain(layers.Conv2D(4, 3), layers.MaxPooling2D(2), layer())))
    assert alone[2:] == ([(fused, None)] if fused else [])


@pytest.mark.parametrize("function", ["relu", "relu6", None, keras.activations.relu, layers.ReLU()])
def test_an_activation_argument_is_fused(function) -> None:
    bodies = [
        lambda: layers.Conv2D(4, 3, activation=function),
        lambda: layers.DepthwiseConv2D(3, activation=function),
        lambda: layers.Dense(4, activation=function),
    ]
    for body in bodies:
        ((_, fused),) = kinds(assert_same_function(chain(body())))
        assert fused == {None: None, "relu6": "relu6"}.get(function, "relu")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ReLU(max_value=3.0),
        lambda: layers.ReLU(max_value=6.0, negative_slope=0.1),
        lambda: layers.ReLU(threshold=0.5),
    ],
)
def test_other_relus_stay_in_float_with_a_reason(layer) -> None:
    lowered = assert_same_function(chain(layers.Conv2D(4, 3), layer()))
    assert [kind for kind, _ in kinds(lowered)] == ["conv2d", "float"]
    reason = lowered.graph.nodes[1].reason
    assert "max_value=" in reason and "negative_slope=" in reason and "threshold=" in reason


def test_only_the_first_of_two_activations_is_fused() -> None:
    lowered = assert_same_function(chain(layers.Conv2D(4, 3, activation="relu"), layers.ReLU(6.0)))
    assert kinds(lowered) == [("conv2d", "relu"), ("relu6", None)]


def test_a_batch_norm_after_a_relu_is_not_folded_into_the_convolution() -> None:
    lowered = assert_same_function(
        normalized(layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization())
    )
    assert kinds(lowered) == [("conv2d", "relu"), ("depthwise_conv2d", None)]


# --- what stays in float ---


class OwnConv(layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class OwnReLU(layers.ReLU):
    pass


class Doubling(layers.Layer):
    def build(self, shape) -> None:
        self.factor = self.add_weight(shape=(), initializer=lambda *_, **__: 2.0)

    def call(self, inputs):
        return self.factor * inputs


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: OwnConv(4, 3), "OwnConv"),
        (OwnReLU, "OwnReLU"),  # the rule is the exact type, whatever the subclass does
        (Doubling, "Doubling"),
        (lambda: layers.Lambda(lambda x: x * 2), "Lambda"),
        (layers.UnitNormalization, "UnitNormalization"),
        (lambda: layers.Activation("softplus"), "softplus"),
        (lambda: layers.Softmax(axis=1), "axis 1"),
        (lambda: layers.Conv2D(2, 3, activation="softplus"), "softplus"),
    ],
)
def test_a_layer_without_integer_form_stays_with_its_reason(layer, reason: str) -> None:
    lowered = assert_same_function(chain(layers.Conv2D(3, 3), layer(), layers.Conv2D(2, 1)))
    (node,) = (node for node in lowered.graph.nodes if node.kind == "float")
    assert reason in node.reason
    assert node.kernel is None


def test_channels_first_is_named() -> None:
    inputs = image(3, 8, 8)
    outputs = layers.MaxPooling2D(2, data_format="channels_first", name="pool")(inputs)
    model = keras.Model(
        inputs, layers.Conv2D(2, 3, data_format="channels_first", name="c")(outputs)
    )
    for node in lower(model).graph.nodes:
        assert node.kind == "float"
        assert "channels_first" in node.reason


def test_a_model_without_a_quantizable_layer_is_refused() -> None:
    model = chain(Doubling(), layers.MaxPooling2D(2))
    with pytest.raises(ModelError, match=r"none of them.*Doubling: no integer form"):
        require_quantizable(lower(model).graph, model.name)
    require_quantizable(lower(chain(Doubling(), layers.Dense(1))).graph, "dense")


# --- facts of the graph ---


def test_names_and_shapes() -> None:
    lowered = lower(build("softmax_classifier"))
    graph = lowered.graph
    assert list(graph.shapes) == list(graph.tensors)
    assert graph.inputs == ("image",)
    assert graph.shapes["image"] == (None, 8, 8, 3)
    assert {tensor for node in graph.nodes for tensor in node.inputs} <= set(graph.tensors)
    assert {name: node.name for name, node in graph.producer.items()} == {
        node.output: node.name for node in graph.nodes
    }


def test_a_number_that_is_joined_may_turn_the_sign() -> None:
    inputs = image()
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    outputs = [x + (-3.0), x - 2.0, -2.0 + x, x * -1.0, 1.0 - x, x + 1.0, x * 2.0]
    lowered = assert_same_function(keras.Model(inputs, outputs))
    assert "conv/linear" in lowered.graph.nonnegative


@pytest.mark.parametrize("layer", [layers.BatchNormalization, lambda: layers.Dropout(0.5)])
def test_a_call_in_training_mode_is_one_in_inference_mode_when_the_model_predicts(layer) -> None:
    """So Keras has it: `predict` passes training=False to every layer, whatever its call says."""
    inputs = image()
    x = layer()(layers.Conv2D(4, 3, name="conv")(inputs), training=True)
    lowered = assert_same_function(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    assert kinds(lowered) == [("conv2d", None), ("conv2d", None)]


@pytest.mark.parametrize("training", [False, True])
def test_a_nested_model_is_opened_however_it_was_called(training: bool) -> None:
    inner_image = keras.Input((8, 8, 3))
    inner = keras.Model(
        inner_image, layers.Dropout(0.5)(layers.Conv2D(4, 3)(inner_image)), name="i"
    )
    inputs = image()
    outputs = layers.Conv2D(2, 1, name="last")(inner(inputs, training=training))
    lowered = assert_same_function(keras.Model(inputs, outputs))
    assert kinds(lowered) == [("conv2d", None), ("conv2d", None)]


@pytest.mark.parametrize("layer", AUGMENTING_LAYERS, ids=lambda layer: layer.__name__)
def test_an_augmenting_layer_does_nothing_at_inference(layer) -> None:
    required = [p for p in inspect.signature(layer).parameters.values() if p.default is p.empty]
    factors = [1.0] * len([p for p in required if p.kind is p.POSITIONAL_OR_KEYWORD])
    lowered = assert_same_function(chain(layer(*factors), layers.Conv2D(2, 3)))
    assert kinds(lowered) == [("conv2d", None)]


def test_the_fingerprint_tells_models_apart() -> None:
    def fingerprint(change=None, *, kernel=3, activation="relu", pool=2) -> str:
        keras.utils.set_random_seed(0)
        model = chain(
            layers.Conv2D(2, kernel, padding="same", activation=activation, name="a"),
            layers.BatchNormalization(name="bn"),
            layers.MaxPooling2D(pool, strides=2, padding="same", name="pool"),
        )
        if change:
            change(model)
        return lower(model).graph.fingerprint

    def bias(model):
        model.layers[1].bias.assign([0.0, 1e-3])

    def variance(model):
        model.layers[2].moving_variance.assign([1.0, 1.01])

    found = [
        fingerprint(),
        fingerprint(bias),
        fingerprint(variance),
        fingerprint(kernel=1),
        fingerprint(activation="relu6"),
        fingerprint(pool=3),
    ]
    assert len(set(found)) == 6
    assert fingerprint() == found[0]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [((8, 8), (8, 8), True), ((8, 8), (8, 10), False), ((None, None), (8, 8), False)],
)
def test_the_fingerprint_tells_sizes_of_the_input_apart_but_not_of_the_batch(
    first: tuple, second: tuple, same: bool
) -> None:
    def fingerprint(size: tuple, batch: int | None) -> str:
        inputs = keras.Input((*size, 3), batch_size=batch, name="image")
        conv = layers.Conv2D(2, 3, kernel_initializer="ones", name="conv")
        return lower(keras.Model(inputs, conv(inputs))).graph.fingerprint

    assert (fingerprint(first, None) == fingerprint(second, 4)) == same


def test_tensors_are_released_after_their_last_use() -> None:
    nodes = [
        Node("a", "relu", "ReLU", ("image",), ("a",)),
        Node("b", "relu", "ReLU", ("a",), ("b", "b2")),
        Node("c", "add", "Add", ("a", "b"), ("c",)),
    ]
    assert last_uses(nodes, ()) == {"a": ("image",), "b": ("b2",), "c": ("a", "b", "c")}
    assert last_uses(nodes, ("c", "a")) == {"a": ("image",), "b": ("b2",), "c": ("b",)}
