"""From a model that TFMOT quantized to our converter, whether it was fine-tuned or not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)
from tensorflow_model_optimization.quantization.keras import QuantizeWrapper

from tflite_ptq4 import __version__
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ModelError
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.keras_side.float_files import FloatFiles
from tflite_ptq4.keras_side.lowering import LoweredModel, lower
from tflite_ptq4.keras_side.tf_keras_models.twin import Twin
from tflite_ptq4.pipeline import QuantizedModel
from tflite_ptq4.plan import LayerPlan, QuantizationPlan, record_fields
from tflite_ptq4.report.rows import build_report
from tflite_ptq4.tfmot.quantize_configs import Ptq4QuantizeConfig
from tflite_ptq4.tfmot.quantizers import Ptq4ActivationQuantizer, Ptq4WeightQuantizer
from tflite_ptq4.weights.layer_weights import LayerWeights, hold_bias


def to_quantized_model(model: tf_keras.Model) -> QuantizedModel:
    """Take the plan and the weights out of a model that `quantize_apply` made with our scheme.

        to_quantized_model(quantized).save("model.tflite", target="packed_int4")

    Weights that were fine-tuned are rounded to the grid that the plan gives them; what was not
    trained keeps its integers.

    Args:
        model: the model, as it was made, fine-tuned, or loaded.

    Returns:
        The quantized model, whose float network has the model's weights.

    Raises:
        ModelError: a layer is quantized by another scheme, or none is.
    """
    outputs, kernels = _quantizers(model)
    lowered = _renamed(lower(Twin(model, unwrap=_inner).model), _original_names(outputs))
    tensors = {q.tensor["name"]: q.plan for q in outputs}
    operators = {q.operator["name"]: q for q in outputs if q.operator is not None}
    plan = QuantizationPlan(
        layers=tuple(_layer_plan(node, operators.get(node.name)) for node in lowered.graph.nodes),
        tensors={name: tensors[name] for name in lowered.graph.tensors if name in tensors},
        config=QuantizationConfig.from_dict(outputs[0].recipe),
        fingerprint=lowered.graph.fingerprint,
    )
    weights = {
        node.name: _weights(node, kernels[operators[node.name].layer], plan)
        for node in lowered.graph.weighted_nodes
        if node.name in operators
    }
    return QuantizedModel(
        plan=plan,
        weights=weights,
        lowered=lowered,
        float_files=FloatFiles(lowered),
        make_report=partial(
            build_report,
            lowered.graph,
            plan,
            weights,
            {},
            model=model.name,
            package_version=__version__,
        ),
    )


def _inner(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer | None:
    """The layer inside TFMOT's wrapper; None for a layer that only rounds."""
    if isinstance(layer, QuantizeLayer):
        return None
    return layer.layer if isinstance(layer, QuantizeWrapper) else layer


def _quantizers(
    model: tf_keras.Model,
) -> tuple[list[Ptq4ActivationQuantizer], dict[str, Ptq4WeightQuantizer]]:
    """The quantizers of the activations, and those of kernels by the names of their layers."""
    outputs, kernels = [], {}
    for layer in model.layers:
        if isinstance(layer, QuantizeLayer):
            _require_ours(layer, layer.quantizer, Ptq4ActivationQuantizer)
            outputs.append(layer.quantizer)
        elif isinstance(layer, QuantizeWrapper):
            config = layer.quantize_config
            _require_ours(layer, config, Ptq4QuantizeConfig)
            if config.output is not None:
                outputs.append(config.output)
            if config.weights is not None:
                kernels[layer.layer.name] = config.weights
    if not kernels:
        raise ModelError(
            "`model` must be what quantize_apply makes with a Ptq4QuantizeScheme. Received: "
            f"{model.name!r}, in which no layer with weights is quantized by it."
        )
    return outputs, kernels


def _require_ours(layer: tf_keras.layers.Layer, found: object, wanted: type) -> None:
    if not isinstance(found, wanted):
        raise ModelError(
            "Every quantized layer must be quantized by Ptq4QuantizeScheme, for its ranges go into "
            f"the file. Received: {layer.name!r} with a {type(found).__name__}. Annotate it "
            "without a config, or with a Ptq4 one, or leave it in float."
        )


def _original_names(outputs: list[Ptq4ActivationQuantizer]) -> dict[str, str]:
    """What operators, and the tensors that they write, were called in the model of the user."""
    operators = (q for q in outputs if q.operator is not None)
    return {q.layer: q.operator["name"] for q in operators}


def _renamed(lowered: LoweredModel, names: dict[str, str]) -> LoweredModel:
    """A model with other names for some operators and their outputs."""

    def name(old: str) -> str:
        return names.get(old, old)

    def by_name(values: dict[str, Any]) -> dict[str, Any]:
        return {name(key): value for key, value in values.items()}

    graph = lowered.graph
    nodes = tuple(
        replace(
            node,
            name=name(node.name),
            inputs=tuple(map(name, node.inputs)),
            outputs=tuple(map(name, node.outputs)),
        )
        for node in graph.nodes
    )
    return replace(
        lowered,
        graph=LayerGraph(
            nodes=nodes,
            inputs=graph.inputs,
            outputs=tuple(map(name, graph.outputs)),
            shapes=by_name(graph.shapes),
        ),
        runs=by_name(lowered.runs),
        symbolic_runs=by_name(lowered.symbolic_runs),
        taps=by_name(lowered.taps),
        alias={key: name(tensor) for key, tensor in lowered.alias.items()},
    )


def _layer_plan(node: Node, quantizer: Ptq4ActivationQuantizer | None) -> LayerPlan:
    if quantizer is not None:
        return LayerPlan(**record_fields(quantizer.operator))
    return LayerPlan(
        name=node.name,
        layer_type=node.layer_type,
        kind=node.kind,
        output=node.output,
        quantized=False,
        weight_bits=None,
        reason=node.reason or "not quantized by quantize_apply",
    )


def _weights(node: Node, quantizer: Ptq4WeightQuantizer, plan: QuantizationPlan) -> LayerWeights:
    """The integers of a layer as its variables are now."""
    channels = node.output_channels
    weights = LayerWeights(
        integers=quantizer.integers(node.kernel),
        scale=quantizer.scale.reshape(channels),
        bias=quantizer.bias,
        offset=quantizer.offset.reshape(channels),
    )
    input_plan = plan.tensors.get(node.inputs[0])
    # A bias that was not trained is the one of the plan, which has more digits than its variable.
    tuned = node.bias != weights.stored_bias(input_plan)
    bias = np.where(tuned, node.bias.astype(np.float64), weights.bias)
    return hold_bias(node, replace(weights, bias=bias), input_plan)
