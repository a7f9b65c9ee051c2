"""The sensitivity of every layer in one pass over images, backward from signs at the outputs.

Let e be the change of a layer's output when only its weights are quantized, or only its output is
rounded, and it reads what the float network gives it. To first order the outputs change by J e; the
mean of (v . J e)^2 over random signs v is |J e|^2, and one backward pass gives v . J of all layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import ceil

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.image_count import evenly_spread
from tflite_ptq4.keras_side.execution import activate, linear, run_graph, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.image_batches import even_size
from tflite_ptq4.keras_side.input_gradients import has_plain_gradient, input_gradient
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.second_thread import SecondThread
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.sensitivity import Sensitivity, random_signs, weights_alone
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.layer_weights import LayerWeights

PARTS = ("weights", "activation")
MOST_IMAGES = 64
SAMPLES = 128  # images times probes: the relative deviation of a result is sqrt(2 / 128), or 0.5 dB
ELEMENTS_OF_ALL_TENSORS = 1 << 24  # in a batch: 64 MiB


def measure_sensitivity(
    lowered: LoweredModel,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    statistics: Mapping[str, TensorStatistics],
    images: Sequence[NDArray[np.float32]],
    *,
    parts: Collection[str] = PARTS,
    most_images: int = MOST_IMAGES,
    probes: int | None = None,
    progress: Callable | None = None,
) -> dict[str, Sensitivity]:
    """Measure what each layer's own error does to the outputs, all others in float.

    An output behind a softmax or a sigmoid is taken before it, as logits. Several outputs count
    alike, whatever their units.

    Args:
        lowered: the model.
        plan: made for it.
        weights: of the layers that it quantizes, with what they were rounded from.
        statistics: of the tensors that those layers read.
        images: for each input of the model float32 [n, ...], prepared as the model expects them.
        parts: which errors are measured, of "weights" and of the "activation".
        most_images: of more images, as many are taken, evenly spread.
        probes: random signs for each image; enough for 128 samples where None. The relative
            deviation of a result is near sqrt(2 / samples).
        progress: wraps the list of batches and shows how far it is; None shows nothing.

    Returns:
        The sensitivity of each operator whose weights are quantized or whose output is rounded, and
        of each input that is, by name.
    """
    graph = lowered.graph
    elements = sum(map(graph.elements, graph.tensors))
    chosen = evenly_spread(len(images[0]), most_images)
    size = even_size(max(1, ELEMENTS_OF_ALL_TENSORS // elements), len(chosen))
    probes = probes or ceil(SAMPLES / len(chosen))
    starts = range(0, len(chosen), size)
    with SecondThread() as beside:
        measured = _Measured(lowered, plan, weights, statistics, frozenset(parts), probes, beside)
        for start in progress(starts) if progress else starts:
            part = chosen[start : start + size]
            values = (tf.constant(array[part], tf.float32) for array in images)
            measured.add(dict(zip(graph.inputs, values, strict=True)))
    return measured.result()


def logit_tensors(graph: LayerGraph) -> tuple[str, ...]:
    """The outputs of a graph, those behind a softmax or a sigmoid before it."""
    found = []
    for name in graph.outputs:
        node = graph.producer.get(name)
        bounded = node is not None and node.kind in ("softmax", "sigmoid")
        found.append(node.inputs[0] if bounded else name)
    return tuple(dict.fromkeys(found))


class _Measured:
    """Sums over the batches so far."""

    def __init__(
        self,
        lowered: LoweredModel,
        plan: QuantizationPlan,
        weights: Mapping[str, LayerWeights],
        statistics: Mapping[str, TensorStatistics],
        parts: frozenset[str],
        probes: int,
        beside: SecondThread,
    ) -> None:
        self.lowered, self.plan, self.probes = lowered, plan, probes
        self._parts, self._beside = parts, beside
        self._alone = {
            node.name: weights_alone(
                node,
                weights[node.name],
                plan.tensors.get(node.inputs[0]),
                plan.config,
                statistics[node.inputs[0]].mean,
            )
            for node in lowered.graph.weighted_nodes
            if node.name in weights and "weights" in parts
        }
        self._logits = logit_tensors(lowered.graph)
        self._sign_sizes: dict[str, float] = {}
        self._rng = np.random.default_rng(0)
        self._signal = 0.0
        self._projected: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._by_channel: dict[str, NDArray[np.float64]] = {}

    def add(self, inputs: dict[str, tf.Tensor]) -> None:
        """Run a batch forward once, and backward once for each probe."""
        values = dict(inputs)
        for node, _, results in run_graph(self.lowered, inputs):
            values.update(zip(node.outputs, results, strict=True))
        gradients = {name: self._probes(name, values[name]) for name in self._logits}
        for node in reversed(self.lowered.graph.nodes):
            reached = {name: gradients.pop(name) for name in node.outputs if name in gradients}
            projected = self._beside.start(self._project_errors, node, values, reached)
            if reached:
                for name, found in self._backward(node, values, reached):
                    gradients[name] = _added(gradients.get(name), found)
            projected.result()
            for name in node.outputs:
                del values[name]
        rounded = self.plan.tensors if "activation" in self._parts else {}
        for name in [name for name in inputs if name in rounded]:
            error = fake_quantize(values[name], self.plan.tensors[name]) - values[name]
            self._project(name, "activation", gradients.get(name, []), error)

    def _backward(
        self, node: Node, values: Mapping[str, tf.Tensor], reached: Mapping[str, list[tf.Tensor]]
    ) -> Iterator[tuple[str, list[tf.Tensor]]]:
        """From the gradients at the outputs of an operator to those at its inputs."""
        if node.rule.weighted and has_plain_gradient(node):
            name = node.inputs[0]
            shape, output = values[name].shape, values[node.output]
            yield name, [input_gradient(node, shape, output, g) for g in reached[node.output]]
            return
        # An operator runs anew, so that nothing but its outputs need be kept of all others.
        inputs = [values[name] for name in node.inputs]
        varied = {n: x for n, x in zip(node.inputs, inputs, strict=True) if x.dtype.is_floating}
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(list(varied.values()))
            outputs = run_node(node, self.lowered.runs.get(node.name), inputs)
        targets = dict(zip(node.outputs, outputs, strict=True))
        by_probe = [
            tape.gradient([targets[name] for name in reached], varied, output_gradients=list(given))
            for given in zip(*reached.values(), strict=True)
        ]
        for name in varied:
            if by_probe[0][name] is not None:
                yield name, [found[name] for found in by_probe]

    def _project_errors(
        self, node: Node, values: Mapping[str, tf.Tensor], reached: Mapping[str, list[tf.Tensor]]
    ) -> None:
        """Add what an operator's own errors do, by the gradients at its outputs."""
        for part, error in self._errors(node, values):
            self._project(node.name, part, reached.get(node.output, []), error)

    def _project(self, layer: str, part: str, gradients: list[tf.Tensor], error: tf.Tensor) -> None:
        """Add (g . e)^2 of each image and probe, of weights also that of each channel."""
        of_channels = part == "weights" and bool(gradients)
        axes = list(range(1, len(error.shape) - of_channels))
        sums = [tf.reduce_sum(gradient * error, axes).numpy() for gradient in gradients]
        projected = np.array(sums, np.float64)
        if of_channels:
            squares = np.square(projected).sum(axis=(0, 1))
            self._by_channel[layer] = self._by_channel.get(layer, 0.0) + squares
            projected = projected.sum(axis=-1)
        self._projected[layer, part] += float(np.square(projected).sum())

    def result(self) -> dict[str, Sensitivity]:
        """The relative squared errors."""
        scale = self.probes * self._signal or 1.0
        names = dict.fromkeys(layer for layer, _ in self._projected)
        relative = {key: total / scale for key, total in self._projected.items()}
        return {
            name: Sensitivity(
                weights=relative.get((name, "weights")),
                activation=relative.get((name, "activation")),
                by_channel=tuple(np.divide(self._by_channel.get(name, ()), scale).tolist()),
            )
            for name in names
        }

    def _probes(self, name: str, logits: tf.Tensor) -> list[tf.Tensor]:
        """Random signs for each probe, over the output's size as the first batch shows it."""
        if name not in self._sign_sizes:
            square = float(tf.reduce_sum(tf.square(logits))) / len(logits)
            self._sign_sizes[name] = square**-0.5 if square > 0.0 else 0.0
        size, shape = self._sign_sizes[name], tuple(logits.shape)
        self._signal += size**2 * float(tf.reduce_sum(tf.square(logits)))
        return [tf.constant(random_signs(self._rng, shape, size)) for _ in range(self.probes)]

    def _errors(
        self, node: Node, values: Mapping[str, tf.Tensor]
    ) -> Iterator[tuple[str, tf.Tensor]]:
        """What quantization alone does to an operator's output: of its weights, of its rounding."""
        value, name = values[node.output], node.output
        if node.name in self._alone:
            yield "weights", self._with_weights(node, values) - value
        if "activation" not in self._parts or name not in self.plan.tensors:
            return
        rounding = rounds_after(node, quantized=self.plan.layer(node.name).quantized)
        if rounding is not None and not self._on_levels(node):
            yield "activation", fake_quantize(value, self.plan.tensors[name], rounding) - value

    def _with_weights(self, node: Node, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        kernel, bias = self._alone[node.name]
        return activate(node, linear(node, values[node.inputs[0]], kernel, bias))

    def _on_levels(self, node: Node) -> bool:
        """Whether an operator finds its inputs on the levels of its output already."""
        plans = [self.plan.tensors.get(name) for name in (*node.inputs, node.output)]
        return node.rule.rescales_inputs and len({plan and plan.source for plan in plans}) == 1


def _added(one: list[tf.Tensor] | None, other: list[tf.Tensor]) -> list[tf.Tensor]:
    return other if one is None else [a + b for a, b in zip(one, other, strict=True)]
