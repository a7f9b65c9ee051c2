"""The model that TFMOT wraps: layers folded as the plan says, the quantized weights in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from tflite_ptq4.errors import ModelError
from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.fake_quantization import rounds_after
from tflite_ptq4.keras_side.layer_of_node import keras_layer, kernel_of_layer
from tflite_ptq4.keras_side.primitives.primitive import Primitive, expand
from tflite_ptq4.keras_side.tf_keras_models.layers import carried_kind
from tflite_ptq4.keras_side.tf_keras_models.twin import Twin
from tflite_ptq4.keras_side.trace import Call
from tflite_ptq4.keras_side.unique_names import UniqueNames
from tflite_ptq4.pipeline import QuantizedModel
from tflite_ptq4.plan import plain_record
from tflite_ptq4.tfmot.annotations import Annotations, is_foreign
from tflite_ptq4.tfmot.quantize_configs import Ptq4QuantizeConfig, config_for
from tflite_ptq4.tfmot.quantizers import Ptq4ActivationQuantizer, Ptq4WeightQuantizer

_JOINS = {
    "add": tf_keras.layers.Add,
    "subtract": tf_keras.layers.Subtract,
    "multiply": tf_keras.layers.Multiply,
    "maximum": tf_keras.layers.Maximum,
    "minimum": tf_keras.layers.Minimum,
}
FUNCTION_LAYERS = ("TFOpLambda", "SlicingOpLambda")
_ACTIVATIONS = ("elu", "gelu", "relu", "sigmoid", "softmax", "tanh")


class Layout:
    """Builds the folded model from a quantized one.

    A quantized operator is a layer of its own with its kernel on the plan's levels, a ReLU after it
    another. What stays in float is called as the user wrote it.

    Args:
        quantized: the model, quantized.
        twin: from which it was quantized.
        annotations: for each annotated layer TFMOT's metadata.

    Attributes:
        model: the folded model.
        metadata: for each layer that TFMOT is to wrap, its metadata.
        decided: for each layer that is quantized to the plan, its config.

    Raises:
        ModelError: TFMOT has no layer for a quantized operator.
    """

    def __init__(self, quantized: QuantizedModel, twin: Twin, annotations: Annotations) -> None:
        self._quantized, self._twin, self._annotations = quantized, twin, annotations
        self._lowered, self._plan = quantized.lowered, quantized.plan
        self._recipe = quantized.plan.config.to_dict()
        self.metadata: dict[str, dict[str, Any]] = {}
        self.decided: dict[str, Ptq4QuantizeConfig] = {}
        self._unique = UniqueNames("_", second=1)
        self._copies: dict[int, tf_keras.layers.Layer] = {}
        self._to_set: list[tuple[tf_keras.layers.Layer, list[np.ndarray]]] = []
        self._written: dict[str, Any] = {}  # by the tensors of the graph
        self._values: dict[str, Any] = {}  # by the tensors of the primitives
        self.model = self._build()

    def _build(self) -> tf_keras.Model:
        traced = self._lowered.trace
        inputs = {
            name: tf_keras.Input(batch_shape=shape, name=name)
            for name, shape in zip(traced.inputs, traced.input_shapes, strict=True)
        }
        calls = [(call, expand(call)) for call in traced.calls]
        in_float = [call for call, primitives in calls if not self._is_quantized(primitives)]
        self._unique.reserve((*inputs, *(self._twin.original(c.operation).name for c in in_float)))
        for name, value in inputs.items():
            self._values[name] = self._rounded(value, name, "half_even")
        for call, primitives in calls:
            if self._is_quantized(primitives):
                for primitive in primitives:
                    self._quantize(call, primitive)
            else:
                self._call_in_float(call)
        outputs = traced.pack([self._values[name] for name in traced.outputs])
        given = tf.nest.map_structure(inputs.get, traced.input_structure)
        model = tf_keras.Model(given, outputs, name=self._lowered.model.name)
        for layer, weights in self._to_set:
            layer.set_weights(weights)
        return model

    def _node(self, primitive: Primitive) -> Node | None:
        """The operator that a primitive belongs to."""
        return self._lowered.graph.producer.get(self._lowered.alias[primitive.outputs[0]])

    def _is_quantized(self, primitives: list[Primitive]) -> bool:
        """Whether a call computes anything on integers; a Dropout, say, computes nothing."""
        nodes = [self._node(p) for p in primitives if p.kind != "identity"]
        return any(node is not None and self._plan.layer(node.name).quantized for node in nodes)

    def _quantize(self, call: Call, primitive: Primitive) -> None:
        """One primitive, with all of the operator that it begins."""
        node, output = self._node(primitive), primitive.outputs[0]
        if node.output not in self._written:
            arguments = [self._values[name] for name in primitive.inputs]
            if self._plan.layer(node.name).quantized:
                self._written[node.output] = self._operator(call, primitive, node, arguments)
            elif node.inner:
                self._written[node.output] = arguments[0]  # the last step is the whole activation
            else:
                activation = self._twin.original(call.operation).activation
                name = self._unique(f"{call.name}_activation")
                layer = tf_keras.layers.Activation(activation, name=name)
                self._written[node.output] = self._rounded(
                    layer(*arguments), node.output, rounds_after(node, quantized=False)
                )
        self._values[output] = self._written[node.output]

    def _operator(self, call: Call, primitive: Primitive, node: Node, arguments: list) -> Any:
        """A quantized operator: its layer, and one more for a ReLU that is fused with it."""
        layer, is_own_call = self._layer(call, primitive, node)
        if is_own_call:
            (output,) = call.repeat(layer)(arguments)
        else:
            output = layer(arguments if len(arguments) > 1 else arguments[0])
        weights = self._hold_weights(layer, node) if node.rule.weighted else None
        quantizer = self._quantizer(
            node.output, rounds_after(node, quantized=True), node, layer.name
        )
        # A wrapper of TFMOT passes a layer one tensor, or one list, and no number beside it.
        is_function = type(layer).__name__ in FUNCTION_LAYERS
        if not is_function:
            self._decide(layer, weights, None if node.activation else quantizer)
        if node.activation:
            relu = tf_keras.layers.ReLU(
                6.0 if node.activation == "relu6" else None,
                name=self._unique(f"{layer.name}_{node.activation}"),
            )
            output = relu(output)
            self._decide(relu, None, quantizer)
        elif is_function:
            output = QuantizeLayer(quantizer, name=self._unique(f"quantize_{layer.name}"))(output)
        return output

    def _layer(
        self, call: Call, primitive: Primitive, node: Node
    ) -> tuple[tf_keras.layers.Layer, bool]:
        """The float layer of a quantized operator, and whether the user's call is all of it."""
        original = self._twin.original(call.operation)
        name = node.name.removesuffix("/linear")
        if node.rule.weighted:
            return keras_layer(node, self._unique(name), library=tf_keras), False
        if node.kind in _JOINS and len(node.inputs) == 2:
            return _JOINS[node.kind](name=self._unique(name)), False
        if len(expand(call)) == 1 and not hasattr(original, "activation"):
            layer = type(original).from_config(
                {**original.get_config(), "name": self._unique(name)}
            )
            if original.weights:
                self._to_set.append((layer, original.get_weights()))
            return layer, True
        name = self._unique(name if primitive.name != call.name else f"{name}_{node.kind}")
        if node.kind == "relu6":
            return tf_keras.layers.ReLU(6.0, name=name), False
        if node.kind == "leaky_relu":
            return tf_keras.layers.Activation(tf.nn.leaky_relu, name=name), False
        if node.kind in _ACTIVATIONS:
            return tf_keras.layers.Activation(node.kind, name=name), False
        raise ModelError(
            f"Every quantized operator must have a layer that TFMOT can wrap. Received: "
            f"{node.name!r}, a {node.kind} of {node.layer_type}. Leave it in float, by not "
            "annotating the layer."
        )

    def _hold_weights(self, layer: tf_keras.layers.Layer, node: Node) -> Ptq4WeightQuantizer:
        """Let a layer hold the quantized weights; return what holds them to their grid."""
        weights = self._quantized.weights[node.name]
        kernel = kernel_of_layer(node, weights.dequantized(node))
        bias = weights.stored_bias(self._plan.tensors.get(node.inputs[0]))
        self._to_set.append((layer, [kernel, bias]))
        return Ptq4WeightQuantizer.of(node, weights, self._plan.layer(node.name).weight_bits)

    def _quantizer(
        self, tensor: str, rounding: str | None, node: Node | None = None, layer: str = ""
    ) -> Ptq4ActivationQuantizer:
        return Ptq4ActivationQuantizer(
            plain_record(self._plan.tensors[tensor]),
            rounding,
            None if node is None else plain_record(self._plan.layer(node.name)),
            layer,
            self._recipe,
        )

    def _decide(
        self,
        layer: tf_keras.layers.Layer,
        weights: Ptq4WeightQuantizer | None,
        output: Ptq4ActivationQuantizer | None,
    ) -> None:
        kind = config_for(type(layer).__name__)
        self.decided[layer.name] = kind(weights=weights, output=output, decided=True)
        self.metadata[layer.name] = {}

    def _call_in_float(self, call: Call) -> None:
        """A call as the user wrote it, on a copy of the layer."""
        original = self._twin.original(call.operation)
        if id(original) not in self._copies:
            copy = type(original).from_config(original.get_config())
            self._copies[id(original)] = copy
            if original.weights:
                self._to_set.append((copy, original.get_weights()))
            self._leave_to_tfmot(original)
        results = call.repeat(self._copies[id(original)])(
            [self._values[name] for name in call.inputs]
        )
        for name, value in zip(call.outputs, results, strict=True):
            tensor = self._lowered.alias[name]
            node = self._lowered.graph.producer.get(tensor)
            if node is not None and self._lowered.taps[tensor] == name:
                rounding = rounds_after(node, quantized=self._plan.layer(node.name).quantized)
                value = self._rounded(value, tensor, rounding)
            self._values[name] = value

    def _leave_to_tfmot(self, layer: tf_keras.layers.Layer) -> None:
        """Hand on a config of another scheme, or an annotation that TFMOT answers."""
        if layer.name not in self._annotations:
            return
        config = self._annotations[layer.name].get("quantize_config")
        own = type(layer).__module__.partition(".")[0] != "tf_keras"
        if is_foreign(config):
            self.metadata[layer.name] = {"quantize_config": config}
        elif config is None and own and carried_kind(layer) is None:
            self.metadata[layer.name] = {}

    def _rounded(self, value: Any, tensor: str, rounding: str | None) -> Any:
        """What stays in float, on the levels that an operator on integers reads."""
        if tensor not in self._plan.tensors:
            return value
        is_input = tensor in self._lowered.graph.inputs
        name = self._unique("quantize_layer" if is_input else f"quantize_{tensor}")
        return QuantizeLayer(self._quantizer(tensor, rounding), name=name)(value)
