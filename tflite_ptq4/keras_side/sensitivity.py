"""The sensitivity of every layer in one pass over images, backward from signs at the outputs.

Let e be the change of a layer's output when only its weights are quantized, or only its output is
rounded, and it reads what the float network gives it. To first order the outputs change by J e; the
mean of (v . J e)^2 over random signs v is |J e|^2, and one backward pass gives v . J of all layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.keras_side.execution import activate, linear, run_graph
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.layer_weights import LayerWeights
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.sensitivity import Sensitivity, random_signs, weights_alone
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

MOST_IMAGES = 64
SAMPLES = 128  # images times probes: the relative deviation of a result is sqrt(2 / 128), or 0.5 dB
BATCH_ELEMENTS = 1 << 24  # of all tensors together; a batch takes about five times as many floats


def measure_sensitivity(
    lowered: LoweredModel,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    statistics: Mapping[str, TensorStatistics],
    images: Sequence[NDArray[np.float32]],
    *,
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
        weights: of the layers that it quantizes.
        statistics: of the tensors that those layers read.
        images: for each input of the model float32 [n, ...], prepared as the model expects them.
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
    size = max(1, BATCH_ELEMENTS // elements)
    chosen = np.unique(np.linspace(0, len(images[0]) - 1, most_images).round().astype(int))
    probes = probes or ceil(SAMPLES / len(chosen))
    measured = _Measured(lowered, plan, weights, statistics, probes)
    starts = range(0, len(chosen), size)
    for start in progress(starts) if progress else starts:
        values = (tf.constant(array[chosen[start : start + size]], tf.float32) for array in images)
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
        probes: int,
    ) -> None:
        self.lowered, self.plan, self.probes = lowered, plan, probes
        self._alone = {
            node.name: weights_alone(
                node,
                weights[node.name],
                plan.tensors.get(node.inputs[0]),
                plan.config,
                statistics[node.inputs[0]].mean,
            )
            for node in lowered.graph.weighted_nodes
            if node.name in weights
        }
        self._logits = logit_tensors(lowered.graph)
        self._sign_sizes: dict[str, float] = {}
        self._rng = np.random.default_rng(0)
        self._signal = 0.0
        self._projected: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, inputs: dict[str, tf.Tensor]) -> None:
        """Run a batch forward once, and backward once for each probe."""
        values = dict(inputs)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(list(inputs.values()))
            for node, _, results in run_graph(self.lowered, inputs):
                values.update(zip(node.outputs, results, strict=True))
        logits = [values[name] for name in self._logits]
        errors = list(self._errors(values))
        tensors = list(dict.fromkeys(name for _, _, name, _ in errors))
        for probe in range(self.probes):
            signs = [self._signs(name, values[name]) for name in self._logits]
            if probe == 0:
                pairs = zip(signs, logits, strict=True)
                self._signal += sum(float(tf.reduce_sum((v * y) ** 2)) for v, y in pairs)
            gradients = tape.gradient(
                logits,
                [values[name] for name in tensors],
                output_gradients=signs,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            gradient = dict(zip(tensors, gradients, strict=True))
            for layer, part, name, error in errors:
                axes = list(range(1, len(error.shape)))
                projected = tf.reduce_sum(gradient[name] * error, axes).numpy()
                self._projected[layer, part] += float(np.square(projected, dtype=np.float64).sum())

    def result(self) -> dict[str, Sensitivity]:
        """The relative squared errors."""
        scale = self.probes * self._signal or 1.0
        names = dict.fromkeys(layer for layer, _ in self._projected)
        relative = {key: total / scale for key, total in self._projected.items()}
        return {
            name: Sensitivity(
                weights=relative.get((name, "weights")),
                activation=relative.get((name, "activation")),
            )
            for name in names
        }

    def _signs(self, name: str, logits: tf.Tensor) -> tf.Tensor:
        """Random signs, divided by what the first batch shows of the output's size."""
        if name not in self._sign_sizes:
            square = float(tf.reduce_sum(tf.square(logits))) / len(logits)
            self._sign_sizes[name] = square**-0.5 if square > 0.0 else 0.0
        return tf.constant(random_signs(self._rng, tuple(logits.shape), self._sign_sizes[name]))

    def _errors(self, values: Mapping[str, tf.Tensor]) -> Iterator[tuple[str, str, str, tf.Tensor]]:
        """What quantization alone does to each tensor: layer, part, tensor, its change."""
        for name in self.lowered.graph.inputs:
            if name in self.plan.tensors:
                rounded = fake_quantize(values[name], self.plan.tensors[name])
                yield name, "activation", name, rounded - values[name]
        for node in self.lowered.graph.nodes:
            value, name = values[node.output], node.output
            if node.name in self._alone:
                yield node.name, "weights", name, self._with_weights(node, values) - value
            rounding = rounds_after(node)
            if rounding is not None and name in self.plan.tensors and not self._on_levels(node):
                rounded = fake_quantize(value, self.plan.tensors[name], rounding)
                yield node.name, "activation", name, rounded - value

    def _with_weights(self, node: Node, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        kernel, bias = self._alone[node.name]
        return activate(node, linear(node, values[node.inputs[0]], kernel, bias))

    def _on_levels(self, node: Node) -> bool:
        """Whether an operator finds its inputs on the levels of its output already."""
        plans = [self.plan.tensors.get(name) for name in (*node.inputs, node.output)]
        return node.kind == "concatenate" and len({plan and plan.source for plan in plans}) == 1
