"""`CalibrationCallback` for models of `tf_keras`: what their runs do otherwise than Keras 3."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from tflite_ptq4.errors import ModelError


class TfKerasRuns:
    """Comes before `CalibrationCallback` among the bases of the callback that tf_keras takes.

    The model computes its own outputs, and its Keras 3 twin the statistics.
    """

    # What tf_keras asks of a callback, whose own `__init__` would replace the property `model`.
    _supports_tf_logs = True
    _chief_worker_only = None

    def set_model(self, model: tf_keras.Model) -> None:
        """Begin a run; `evaluate` takes its function before any `on_test_begin`."""
        super().set_model(model)
        make = model.make_test_function

        def make_observing(force: bool = False):
            self._own_test_function(model)
            self._test_function = make(force=force)
            return self._observing_test(self._test_function)

        self._test_function = None
        vars(model)["make_test_function"] = make_observing

    def on_predict_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        self._own_test_function(self.model)
        super().on_predict_begin(logs)

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse to run with another model, or on several devices: no batch can be kept there."""
        self._own_test_function(self.model)
        super().on_train_begin(logs)
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            raise ModelError(
                "`fit` of tf_keras must run on one device with this callback. Received: "
                f"{self.model.name!r} under {type(strategy).__name__}. Train without the callback, "
                "and run `predict` with it afterwards."
            )

    def on_test_begin(self, logs: object = None) -> None:
        """Refuse to run with another model; put its test function back, which `evaluate` holds."""
        self._own_test_function(self.model)
        super().on_test_begin(logs)

    def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
        """Nothing: `evaluate` holds a function that observes."""

    def _own_test_function(self, model: tf_keras.Model) -> None:
        vars(model).pop("make_test_function", None)
        if self._test_function is not None:
            model.test_function, self._test_function = self._test_function, None

    def _inputs_in_order(self, inputs) -> list[tf.Tensor]:
        model = self._target
        pairs = zip(model._flatten_to_reference_inputs(inputs), model.inputs, strict=True)
        return [model._conform_to_reference_input(tensor, input) for tensor, input in pairs]

    def _repeat(self, batches: Sequence) -> None:
        for position, inputs in enumerate(batches):
            self._observer.observe(
                *self._inputs_in_order(tf.nest.map_structure(tf.constant, inputs))
            )
            self._observer.raise_if_not_finite(position)

    # The autograph of tf_keras would otherwise convert this package's code.
    @tf.autograph.experimental.do_not_convert
    def _forward(self, inputs) -> object:
        return super()._forward(inputs)
