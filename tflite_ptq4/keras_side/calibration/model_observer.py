"""A model run on batches for the statistics of its tensors, without a run of Keras."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side.calibration.observation import TensorAccumulator
from tflite_ptq4.keras_side.calibration.replicas import require_replicas_on_one_machine
from tflite_ptq4.keras_side.execution import run_primitives
from tflite_ptq4.keras_side.lowering import LoweredModel, lower, require_quantizable
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics


class ModelObserver:
    """Gathers the statistics of every tensor to be quantized from the batches that it is given.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras; it is not changed.

    Attributes:
        lowered: the model, lowered, with the weights that the statistics belong to.

    Raises:
        ModelError: the model has no symbolic graph, nothing in it can be quantized, or it is
            distributed otherwise than by MirroredStrategy.
    """

    def __init__(self, model: keras.Model) -> None:
        self.lowered: LoweredModel = lower(model)
        graph = self.lowered.graph
        require_quantizable(graph, model.name)
        require_replicas_on_one_machine(model)
        self._follow = self.lowered.follow
        self._fingerprint = graph.fingerprint
        self._tapped = _observed_tensors(self.lowered)
        shapes = {name: graph.shapes[name] for name in self._tapped}
        self._accumulator = TensorAccumulator(shapes, graph.nonnegative)

    @property
    def statistics(self) -> CalibrationStatistics:
        """What has been gathered so far.

        Raises:
            StatisticsError: no batch has been seen.
        """
        return CalibrationStatistics(
            tensors=self._accumulator.result(),
            images=self._accumulator.images,
            fingerprint=self._fingerprint,
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def observe(self, *inputs: tf.Tensor) -> None:
        """Add one batch.

        Args:
            inputs: one tensor [batch, ...] for each input of the model.
        """
        self.forward(inputs)

    def forward(self, inputs: Sequence[tf.Tensor]) -> object:
        """Add one batch, and compute the model on it; runs inside a `tf.function`.

        Args:
            inputs: as for `observe`.

        Returns:
            The outputs of the lowered model, in the structure that the model returns.
        """
        traced = self.lowered.trace
        named = dict(zip(traced.inputs, inputs, strict=True))
        values = run_primitives(self.lowered.primitives, named)
        # What a layer in float gives may be integers or of half precision.
        self._accumulator.update(
            {name: tf.cast(values[self.lowered.taps[name]], tf.float32) for name in self._tapped}
        )
        return traced.pack([values[name] for name in traced.outputs])

    def reset(self) -> None:
        """Forget what was gathered."""
        self._accumulator.reset()

    def follow_weights(self) -> None:
        """Start anew if the weights are no longer those of the statistics."""
        self._follow()
        lowered = lower(self.lowered.model)
        fingerprint = lowered.graph.fingerprint
        if fingerprint != self._fingerprint:
            self.lowered, self._fingerprint = lowered, fingerprint
            self.reset()

    def raise_if_not_finite(self, batch: int) -> None:
        """Refuse NaN and Inf.

        Args:
            batch: the position of the last batch, for the message.

        Raises:
            StatisticsError: a tensor has held NaN or Inf.
        """
        name = self._accumulator.first_not_finite()
        if name is None:
            return
        where = (
            f"the images hold NaN or Inf (model input {name!r})"
            if name in self.lowered.graph.inputs
            else f"the output of layer {name!r} holds NaN or Inf"
        )
        raise StatisticsError(
            f"Every activation must be finite. Received: in batch {batch} (counted from 0), "
            f"{where}. Check the images' preparation and the model's weights."
        )


def _observed_tensors(lowered: LoweredModel) -> tuple[str, ...]:
    """The tensors whose statistics are gathered: inputs, and what operators write in channels."""
    graph = lowered.graph
    computed = (
        tensor for node in graph.nodes for tensor in node.outputs if len(graph.shapes[tensor]) > 1
    )
    return (*graph.inputs, *computed)
