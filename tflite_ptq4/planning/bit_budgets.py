"""Which layers, channels and activations get more bits than others, within given averages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerSettings
from tflite_ptq4.config.values import LEAST_MEASURED_BITS
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.numerics.bit_budget import raise_bits
from tflite_ptq4.sensitivity import Sensitivity

Measured = Mapping[str, Sensitivity]


def raised_weight_bits(
    nodes: Iterable[Node],
    settings: Mapping[str, LayerSettings],
    config: QuantizationConfig,
    measured: Measured | None,
) -> dict[str, int]:
    """Bits of the layers that `weight_bit_budget` pays for.

    They get `maximum_bits` at once: a packed file holds weights of 4 bits or of 8.

    Args:
        nodes: layers with weights that count: quantized, and not the first or the last.
        settings: of each operator.
        config: the choices.
        measured: what quantizing each layer alone costs the outputs; where None, depthwise layers
            count alike, so that the smallest come first, and other layers nothing.

    Returns:
        By the name of the layer.
    """
    nodes = tuple(nodes)
    by_channel = config.weight_bit_allocation == "measured"
    if config.weight_bit_budget is None or by_channel or not nodes:
        return {}
    usual = [settings[node.name].usual_weight_bits for node in nodes]
    bits = [
        config.mean_weight_bits if as_usual else settings[node.name].weight_bits
        for node, as_usual in zip(nodes, usual, strict=True)
    ]
    if measured is None:
        errors = [float(node.kind == "depthwise_conv2d") for node in nodes]
    else:
        errors = [_of(measured, node.name).weights or 0.0 for node in nodes]
    return _raised(
        [node.name for node in nodes],
        np.where(usual, errors, 0.0),
        [node.kernel.size for node in nodes],
        bits,
        config.weight_bit_budget,
        (config.maximum_bits,),
    )


def measured_channel_bits(
    nodes: Sequence[Node],
    settings: Mapping[str, LayerSettings],
    config: QuantizationConfig,
    measured: Measured,
) -> dict[str, NDArray[np.int64]]:
    """Bits of the output channels of each layer, for `weight_bit_allocation="measured"`.

    All begin with the fewest, and each further bit goes where it lowers the error of the network's
    outputs most. A channel that costs the outputs nothing keeps the fewest.

    Args:
        nodes: layers with weights that count: quantized, and not the first or the last.
        settings: of each operator.
        config: the choices.
        measured: what quantizing each layer alone to its usual bits costs the outputs.

    Returns:
        By the name of the layer int64 [c_out]; of those only whose bits nothing else names.
    """
    fewest = max(config.minimum_bits, LEAST_MEASURED_BITS)
    errors, sizes, bits, ends = [], [], [], {}
    for node in nodes:
        channels, usual = node.output_channels, settings[node.name].usual_weight_bits
        own = settings[node.name].weight_bits
        costs = _of(measured, node.name).by_channel if usual else ()
        errors.append(np.array(costs or (0.0,) * channels) * 4.0 ** (own - fewest))
        sizes.append(np.full(channels, node.kernel.size / channels))
        bits.append(np.full(channels, fewest if usual else own))
        if usual:
            ends[node.name] = sum(map(len, bits))
    if not ends:
        return {}
    average = config.weight_bit_budget
    shared = raise_bits(
        *map(np.concatenate, (errors, sizes, bits)),
        average=config.mean_weight_bits if average is None else average,
        widths=range(fewest + 1, config.maximum_bits + 1),
    ).astype(np.int64)
    return {
        node.name: shared[ends[node.name] - node.output_channels : ends[node.name]]
        for node in nodes
        if node.name in ends
    }


def raised_activation_bits(
    graph: LayerGraph,
    bits: Mapping[str, int],
    usual: Iterable[str],
    sources: Mapping[str, str],
    config: QuantizationConfig,
    measured: Measured | None,
) -> dict[str, int]:
    """Bits of the activations that `activation_bit_budget` pays for.

    Args:
        graph: the lowered model.
        bits: of every quantized tensor that has a scale of its own, the network's inputs included.
        usual: those of them whose bits neither a rule nor their place in the network names.
        sources: for each tensor the tensor whose scale it takes.
        config: the choices.
        measured: what rounding each operator's output alone costs the outputs; where None, signed
            activations count alike, so that the smallest come first, and other ones nothing.

    Returns:
        By the name of the tensor.
    """
    usual = frozenset(usual)
    if config.activation_bit_budget is None or not usual:
        return {}
    errors = dict.fromkeys(bits, 0.0)
    if measured is None:
        errors.update({name: 1.0 for name in usual if name not in graph.nonnegative})
        widths = (config.maximum_bits,)
    else:
        for node in graph.nodes:
            for tensor in node.outputs:
                if sources[tensor] in usual:
                    errors[sources[tensor]] += _of(measured, node.name).activation or 0.0
        widths = tuple(range(config.activation_bits + 1, config.maximum_bits + 1))
    return _raised(
        list(bits),
        list(errors.values()),
        [graph.elements(name) for name in bits],
        list(bits.values()),
        config.activation_bit_budget,
        widths,
    )


def _of(measured: Measured, name: str) -> Sensitivity:
    return measured.get(name, Sensitivity())


def _raised(names, errors, sizes, bits, average, widths) -> dict[str, int]:
    raised = raise_bits(errors, sizes, bits, average=average, widths=widths)
    return {
        name: int(after)
        for name, before, after in zip(names, bits, raised, strict=True)
        if after > before
    }
