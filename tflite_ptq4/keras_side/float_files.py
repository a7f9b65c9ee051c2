"""The float network as files of several input sizes, each converted once and perhaps ahead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future

from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.keras_side.float_tflite import to_float_tflite
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.second_thread import SecondThread

Shapes = Mapping[str, tuple[int, ...]]


class FloatFiles:
    """What every exported file of one model is made of.

    Args:
        lowered: the model.
    """

    def __init__(self, lowered: LoweredModel) -> None:
        self._lowered = lowered
        self._made: dict[tuple, Future[FloatFile]] = {}

    def start(self, thread: SecondThread, input_shapes: Shapes, replaced: Collection[str]) -> None:
        """Convert in another thread what is going to be asked for.

        Args:
            thread: which does it.
            input_shapes: as for `to_float_tflite`.
            replaced: as for `to_float_tflite`.
        """
        made = thread.start(to_float_tflite, self._lowered, input_shapes, replaced)
        self._made[_key(input_shapes, replaced)] = made

    def raise_refusals(self) -> None:
        """Raise what has come of conversions in another thread so far.

        Raises:
            ModelError: one was refused.
        """
        for made in self._made.values():
            if made.done():
                made.result()

    def of(self, input_shapes: Shapes, replaced: Collection[str]) -> FloatFile:
        """The file of these sizes.

        Args:
            input_shapes: as for `to_float_tflite`.
            replaced: as for `to_float_tflite`.

        Raises:
            ModelError: as `to_float_tflite`.
        """
        key = _key(input_shapes, replaced)
        if key not in self._made:
            made: Future[FloatFile] = Future()
            made.set_result(to_float_tflite(self._lowered, input_shapes, replaced))
            self._made[key] = made
        return self._made[key].result()


def _key(input_shapes: Shapes, replaced: Collection[str]) -> tuple:
    return tuple(input_shapes.items()), frozenset(replaced)
