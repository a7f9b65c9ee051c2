"""Quantizing layer by layer over the calibration images: float and quantized network side by side.

Each operator runs once in both networks, in order, so that every layer is corrected for the error
that the layers before it have left; `layer_corrections.py` has the steps of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from math import ceil, prod

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tflite_ptq4.graph import LayerGraph, Node, last_uses
from tflite_ptq4.keras_side.execution import activate, linear, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.image_batches import (
    LARGE_TENSOR,
    PARTS,
    Batches,
    DerivedValues,
    KeptValues,
    batch_size,
)
from tflite_ptq4.keras_side.layer_by_layer.layer_corrections import SPENDING, quantize_on_images
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.second_thread import SecondThread
from tflite_ptq4.numerics.closeness import ratio_db
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.weights.layer_weights import LayerWeights

COMPARED_ROWS = 4_096  # of a tensor, from which its SQNR is taken

Values = KeptValues | DerivedValues
Run = Callable[[Sequence[tf.Tensor]], list]  # from an operator's inputs to its outputs


def quantize_layer_by_layer(
    lowered: LoweredModel,
    plan: QuantizationPlan,
    images: Sequence[NDArray[np.float32]],
    *,
    keeps_unrounded: bool = False,
    progress: Callable | None = None,
) -> tuple[dict[str, LayerWeights], dict[str, float]]:
    """Quantize every planned layer against the float network's output on the images.

    Args:
        lowered: the model.
        plan: made for it.
        images: for each input of the model float32 [n, ...], prepared as the model expects them.
        keeps_unrounded: whether the weights hold what they were rounded from, for sensitivities.
        progress: wraps the list of operators and shows how far it is; None shows nothing.

    Returns:
        The weights of each quantized layer, and the SQNR of each input and of each operator's
        output in dB, every error before it included, by name.
    """
    # Between its calls, numpy's linear algebra would spin on the cores that TensorFlow computes on.
    with threadpool_limits(limits=1, user_api="blas"), SecondThread() as beside:
        run = _SideBySide(lowered, plan, images, beside, keeps_unrounded=keeps_unrounded)
        del images  # both networks keep them in fewer bytes
        nodes = lowered.graph.nodes
        coming = iter(nodes[1:])
        for node in progress(nodes) if progress else nodes:
            run.step(node, next(coming, None))
        return run.weights, {name: compared.result() for name, compared in run.compared.items()}


def derived_tensors(graph: LayerGraph, images: int) -> frozenset[str]:
    """The outputs of operators that are large, and nearer to kept inputs than worth keeping.

    Args:
        graph: the lowered model.
        images: how many images there are in all.
    """
    found: set[str] = set()
    for node in graph.nodes:
        if node.kind == "float" or len(node.outputs) > 1 or found.intersection(node.inputs):
            continue
        read = sum(map(graph.elements, node.inputs))
        written = graph.elements(node.output)
        if written * images > LARGE_TENSOR and written > 2 * read:
            found.add(node.output)
    return frozenset(found)


class _SideBySide:
    """Both networks, as far as they have been run.

    Only tensors that are still read are kept, and of those not the large ones that are computed
    from much smaller ones, as between the first two layers of an inverted bottleneck.
    """

    def __init__(
        self,
        lowered: LoweredModel,
        plan: QuantizationPlan,
        images: Sequence[NDArray[np.float32]],
        beside: SecondThread,
        *,
        keeps_unrounded: bool,
    ) -> None:
        self.lowered, self.plan = lowered, plan
        self._keeps_unrounded = keeps_unrounded
        self.weights: dict[str, LayerWeights] = {}
        self.compared: dict[str, Future[float]] = {}
        self._beside = beside
        graph = lowered.graph
        self._images = len(images[0])
        self._released = last_uses(graph.nodes, ())
        self._derived = derived_tensors(graph, self._images)
        self._float_runs: dict[str, Future[None]] = {}
        self._exact: dict[str, Values] = {}
        self._coded: dict[str, Values] = {}
        for name, array in zip(graph.inputs, images, strict=True):
            self._exact[name], self._coded[name] = self._new_exact(), self._new_coded(name)
            size = self._size([name])
            for start, stop in self._spans(size):
                value = tf.constant(array[start:stop], tf.float32)
                self._exact[name].put(start, value)
                self._keep(name, start, value, "half_even")
            self._compare(name, name, size)

    def step(self, node: Node, coming: Node | None) -> None:
        """Run one operator in both networks, quantizing it first where it has weights.

        Args:
            node: the operator.
            coming: the one after it, which the float network runs ahead.
        """
        self._start_in_float(node)
        float_run = self._float_runs.pop(node.name, None)
        if coming is not None and "float" not in (node.kind, coming.kind):
            self._start_in_float(coming)
        if node.kind == "float":
            float_run.result()  # a layer of the user's own may not bear two threads
        coded = [self._coded[name] for name in node.inputs]
        size = self._size([*node.inputs, *node.outputs])
        if node.rule.weighted and self.plan.layer(node.name).quantized:
            name = node.inputs[0]
            parts = PARTS if SPENDING[self.plan.config.effort].holds_out else 1
            batches = (
                self._batches(values[name], name, size, parts)
                for values in (self._exact, self._coded)
            )
            self.weights[node.name] = quantize_on_images(
                node,
                self.plan,
                *batches,
                keeps_unrounded=self._keeps_unrounded,
                share=self._beside.share,
            )
            run = self._with_weights(node)
        else:
            run = self._in_float(node)
        if node.output in self._derived:
            rounding = self._rounding(node)
            self._coded[node.output] = self._derived_values(
                node, coded, lambda inputs: self._rounded(run(inputs)[0], node.output, rounding)
            )
        else:
            for name in node.outputs:
                self._coded[name] = self._new_coded(name)
            self._run_coded(node, size, coded, run)
            float_run.result()
        self._compare(node.name, node.output, size)
        for name in self._released.get(node.name, ()):
            self._exact.pop(name, None)
            self._coded.pop(name, None)

    def _start_in_float(self, node: Node) -> None:
        """Let the second thread run an operator in the float network, unless it was told before."""
        if node.output in self._exact:
            return
        inputs = [self._exact[name] for name in node.inputs]
        run = self._in_float(node)
        if node.output in self._derived:
            self._exact[node.output] = self._derived_values(node, inputs, lambda x: run(x)[0])
            return
        for name in node.outputs:
            self._exact[name] = self._new_exact()
        size = self._size([*node.inputs, *node.outputs])
        self._float_runs[node.name] = self._beside.start(self._run_exact, node, size, inputs, run)

    def _in_float(self, node: Node) -> Run:
        return partial(run_node, _on_device(node), self.lowered.runs.get(node.name))

    def _derived_values(
        self,
        node: Node,
        inputs: Sequence[Values],
        run: Callable[[Sequence[tf.Tensor]], tf.Tensor],
    ) -> DerivedValues:
        axes = _pointwise_axes(node, self.lowered.graph.shapes[node.inputs[0]])
        return DerivedValues(inputs, run, axes, self._size([*node.inputs, *node.outputs]))

    def _size(self, tensors: Sequence[str]) -> int:
        """Images at a time, where these tensors are at hand together."""
        size = batch_size([self.lowered.graph.shapes[name] for name in tensors], self._images)
        return min(size, ceil(self._images / PARTS))

    def _spans(self, size: int) -> list[tuple[int, int]]:
        """Numbers of the first image of each batch, and of the one after its last."""
        starts = range(0, self._images, size)
        return [(start, min(start + size, self._images)) for start in starts]

    def _run_exact(self, node: Node, size: int, inputs: list[Values], run: Run) -> None:
        """Run an operator in the float network and keep its outputs."""
        for start, stop in self._spans(size):
            outputs = run([values.read(start, stop) for values in inputs])
            for name, value in zip(node.outputs, outputs, strict=True):
                self._exact[name].put(start, value)

    def _run_coded(self, node: Node, size: int, inputs: list[Values], run: Run) -> None:
        """Run an operator in the quantized network and keep its outputs."""

        def run_span(span: tuple[int, int]) -> None:
            outputs = run([values.read(*span) for values in inputs])
            for name, value in zip(node.outputs, outputs, strict=True):
                self._keep(name, span[0], value, self._rounding(node))

        share = map if node.kind == "float" else self._beside.share
        list(share(run_span, self._spans(size)))

    def _keep(self, name: str, start: int, value: tf.Tensor, rounding: str | None) -> None:
        """Keep a tensor of the quantized network, rounded to its plan."""
        kept = self._coded[name]
        rounded = value if kept.plan is not None else self._rounded(value, name, rounding)
        kept.put(start, rounded, rounding)

    def _compare(self, label: str, name: str, size: int) -> None:
        """Let the SQNR of a tensor be taken beside what comes next."""
        batches = (
            self._batches(values[name], name, size, 1) for values in (self._exact, self._coded)
        )
        self.compared[label] = self._beside.start(_sqnr_db, *batches)

    def _batches(self, values: Values, name: str, size: int, parts: int) -> Batches:
        shape = self.lowered.graph.shapes[name][1:]
        return Batches(values, shape, self._images, size, parts)

    def _with_weights(self, node: Node) -> Run:
        weights = self.weights[node.name]
        kernel = tf.constant(weights.dequantized(node))
        bias = tf.constant(weights.stored_bias(self.plan.tensors.get(node.inputs[0])))
        return lambda inputs: [activate(node, linear(node, inputs[0], kernel, bias))]

    def _new_exact(self) -> KeptValues:
        return KeptValues(self._images, None, lossless=False)

    def _new_coded(self, name: str) -> KeptValues:
        plan = self.plan.tensors.get(name)
        if plan is not None and plan.per_channel and plan.source != name:
            plan = None  # flattened, its values are on levels whose channels are no longer an axis
        return KeptValues(self._images, plan, lossless=True)

    def _rounding(self, node: Node) -> str | None:
        return rounds_after(node, quantized=self.plan.layer(node.name).quantized)

    def _rounded(self, value, name: str, rounding: str | None):
        if rounding is None or name not in self.plan.tensors:
            return value
        return fake_quantize(value, self.plan.tensors[name], rounding)


def _on_device(node: Node) -> Node:
    """The operator with its weights as tensors, which numpy's would become at each call."""
    if not node.rule.weighted:
        return node
    return replace(node, kernel=tf.constant(node.kernel), bias=tf.constant(node.bias))


def _sqnr_db(reference: Batches, value: Batches) -> float:
    """The SQNR of a tensor in dB, on a sample of its positions."""
    signal = noise = 0.0
    for part, places in reference.sample(prod(reference.shape[:-1]), COMPARED_ROWS):
        wanted, found = (batches.rows(part, places) for batches in (reference, value))
        signal += float(tf.reduce_sum(tf.square(wanted)))
        noise += float(tf.reduce_sum(tf.math.squared_difference(wanted, found)))
    return ratio_db(signal, noise)


def _pointwise_axes(node: Node, shape: Sequence[int | None]) -> int | None:
    """The spatial axes of an operator whose every output position is of that of its input."""
    pointwise = node.kind == "dense" or (
        node.kind == "conv2d"
        and prod(node.kernel.shape[:2]) == prod(node.attributes["strides"]) == 1
    )
    return len(shape) - 2 if pointwise else None
