"""Small random networks: every one exports and matches, or is refused with a reason.

TFLITE_PTQ4_RANDOM_GRAPHS=500 draws more of them, and others each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from exported_networks import CONFIGS, INTEGER_CONFIGS, calibrate, export_model
from file_checks import compare_with_reference, excess_levels, steps_apart
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from keras import layers
from keras_networks import images_for, randomize_batch_norms

from tflite_ptq4.errors import Ptq4Error
from tflite_ptq4.targets import LAYOUTS

EXAMPLES = int(os.environ.get("TFLITE_PTQ4_RANDOM_GRAPHS", "0"))
IMAGES = 6
INTEGER_TARGETS = (("int8_container", "fast"), *(("packed_int4", layout) for layout in LAYOUTS))
LARGEST_SHARE_APART = 0.02
ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])
CHANNELS = st.sampled_from([1, 2, 3, 5, 6, 7])


class GraphDrawer:
    """Adds drawn layers to a network; `open` holds the tensors that nothing reads yet."""

    def __init__(self, draw: Callable[[st.SearchStrategy], Any]) -> None:
        self.draw = draw
        side = draw(st.integers(5, 8))
        self.inputs = keras.Input((side, draw(st.integers(5, 8)), draw(CHANNELS)), name="image")
        self.tensors: list[Any] = [self.inputs]
        self.open: list[Any] = [self.inputs]
        self.killed: list[tuple[layers.Layer, int]] = []

    def add(self) -> None:
        """One more layer or block, on the newest tensor or on an older one."""
        source = self.tensors[-1 if self.draw(st.booleans()) else 0]
        kind = self.draw(st.sampled_from(sorted(self.BLOCKS)))
        if min(source.shape[1:3]) < 3 and kind in ("pool", "depthwise"):
            kind = "conv"
        self._use(source)
        self._write(self.BLOCKS[kind](self, source))

    def finish(self) -> keras.Model:
        """The model: pooled and classified, or with every open tensor as an output."""
        outputs = self.open
        if self.draw(st.booleans()):
            pooled = [layers.GlobalAveragePooling2D()(tensor) for tensor in outputs]
            joined = layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
            outputs = [layers.Dense(self.draw(st.integers(1, 7)))(joined)]
        model = keras.Model(self.inputs, outputs if len(outputs) > 1 else outputs[0])
        randomize_batch_norms(model)
        for layer, channel in self.killed:
            kernel, bias = layer.get_weights()
            kernel[..., channel % kernel.shape[-1]] = 0.0
            layer.set_weights([kernel, bias])
        return model

    def _use(self, *read: Any) -> None:
        self.open = [tensor for tensor in self.open if all(tensor is not other for other in read)]

    def _write(self, tensor: Any) -> None:
        self.tensors.append(tensor)
        self.open.append(tensor)

    def _conv(self, source: Any, filters: int | None = None, strides: int | None = None) -> Any:
        layer = layers.Conv2D(
            self.draw(CHANNELS) if filters is None else filters,
            self.draw(st.integers(1, 3)),
            strides=self.draw(st.integers(1, 2)) if strides is None else strides,
            padding="same",
            activation=self.draw(ACTIVATIONS),
            bias_initializer="random_normal",
        )
        output = layer(source)
        if self.draw(st.integers(0, 3)) == 0:
            self.killed.append((layer, self.draw(st.integers(0, 6))))
        return output

    def _depthwise(self, source: Any) -> Any:
        layer = layers.DepthwiseConv2D(
            self.draw(st.integers(2, 3)),
            strides=self.draw(st.integers(1, 2)),
            depth_multiplier=self.draw(st.integers(1, 2)),
            padding=self.draw(st.sampled_from(["same", "valid"])),
            activation=self.draw(ACTIVATIONS),
        )
        return layer(source)

    def _batch_norm(self, source: Any) -> Any:
        output = layers.BatchNormalization()(source)
        return layers.ReLU()(output) if self.draw(st.booleans()) else output

    def _residual(self, source: Any) -> Any:
        branch = self._conv(source, filters=source.shape[-1], strides=1)
        terms = [source, branch] if self.draw(st.booleans()) else [branch, source]
        output = layers.Add()(terms)
        return layers.ReLU()(output) if self.draw(st.booleans()) else output

    def _join(self, source: Any) -> Any:
        join = self.draw(st.sampled_from([layers.Average, layers.Maximum, layers.Minimum]))
        branches = [
            self._conv(source, filters=source.shape[-1], strides=1)
            for _ in range(self.draw(st.integers(1, 2)))
        ]
        return join()([source, *branches])

    def _concatenate(self, source: Any) -> Any:
        branches = [self._conv(source, strides=1) for _ in range(self.draw(st.integers(1, 2)))]
        if self.draw(st.booleans()):
            branches.append(source)
        return layers.Concatenate()(branches) if len(branches) > 1 else branches[0]

    def _pool(self, source: Any) -> Any:
        layer = self.draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))
        strides = self.draw(st.integers(1, 2))
        return layer(2, strides=strides, padding=self.draw(st.sampled_from(["same", "valid"])))(
            source
        )

    def _zero_padding(self, source: Any) -> Any:
        return layers.ZeroPadding2D(((0, 1), (1, self.draw(st.integers(0, 1)))))(source)

    BLOCKS = {  # noqa: RUF012
        "conv": _conv,
        "depthwise": _depthwise,
        "batch_norm": _batch_norm,
        "residual": _residual,
        "concatenate": _concatenate,
        "join": _join,
        "pool": _pool,
        "zero_padding": _zero_padding,
    }


def drawn_network(draw: Callable[[st.SearchStrategy], Any]) -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(draw(st.integers(0, 99)))
    drawer = GraphDrawer(draw)
    drawer._write(drawer._conv(drawer.inputs))
    drawer._use(drawer.inputs)
    for _ in range(draw(st.integers(1, 5))):
        drawer.add()
    return drawer.finish()


# Shrinking takes minutes: a network is converted anew for each smaller one.
@settings(
    max_examples=EXAMPLES or 15,
    derandomize=not EXAMPLES,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
)
@given(data=st.data())
def test_a_random_network_matches_or_is_refused_with_a_reason(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(INTEGER_CONFIGS))
    model = drawn_network(data.draw)  # not a strategy: Keras draws seeds from `random`
    images = images_for(model, IMAGES)
    try:
        made = export_model(model, images, calibrate(model, images), CONFIGS[config])
        made.file()
    except Ptq4Error as refusal:
        event(f"refused: {type(refusal).__name__}")
        assert len(str(refusal).split(". ")) >= 2  # what must hold, and what to do
        return
    event("exported")
    for target, layout in INTEGER_TARGETS:
        file = made.file(target, layout=layout)
        found = compare_with_reference(file, images, count=2)
        assert found.elements
        assert found.differing == {}, (target, layout)
        assert excess_levels(file, made.quantized.plan, images) == []
    for target in ("int8_container", "float_simulated"):
        for apart in steps_apart(made, target):
            assert np.mean(apart > 0.5) <= LARGEST_SHARE_APART, target
