"""A function of a Keras model replaced for one batch, and put back whatever happens."""

from __future__ import annotations

from collections.abc import Callable

import keras


class StandIn:
    """Lets another function stand in for a model's train, test or predict function.

    Keras makes these functions once, keeps them in attributes of the model and looks each up for
    every batch. Where a run breaks off before `stop`, the next run of the model, which asks for its
    function anew, puts the model's own back.

    Args:
        model: the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._restore: Callable[[], None] | None = None

    def start(self, attribute: str, make: Callable[[Callable], Callable]) -> None:
        """Replace a function until `stop`.

        Args:
            attribute: "train_function", "test_function" or "predict_function".
            make: from the model's own function to the one that stands in for it.
        """
        self.stop()
        model, maker = self._model, f"make_{attribute}"
        original, make_original = getattr(model, attribute), getattr(model, maker)
        function = make(original)

        def make_after_broken_run(force=False):
            self.stop()
            return make_original(force=force)

        def restore() -> None:
            del vars(model)[maker]
            if getattr(model, attribute) is function:
                setattr(model, attribute, original)

        setattr(model, attribute, function)
        vars(model)[maker] = make_after_broken_run
        self._restore = restore

    def stop(self) -> None:
        """Put the model's own function back, if one is replaced."""
        if self._restore is not None:
            self._restore()
            self._restore = None
