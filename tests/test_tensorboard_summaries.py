"""Summaries read back with TensorBoard's own reader, and pictures pixel by pixel."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tflite_ptq4 import (
    CalibrationStatistics,
    OutputError,
    PostTrainingQuantizationMonitor,
    QuantizationConfig,
    QuantizedModel,
    calibrate,
    quantize_model,
    write_summaries,
)

PER_CHANNEL = QuantizationConfig(
    activation_bits=4,
    weight_bit_allocation="exact",
    activation_bit_allocation="exact",
    first_layer_bits=None,
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype(np.float32)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(image)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module")
def quantized(images: np.ndarray) -> tuple[QuantizedModel, CalibrationStatistics]:
    model = network()
    statistics = calibrate(model, images)
    return quantize_model(model, statistics, PER_CHANNEL), statistics


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def value(events: EventAccumulator, tag: str) -> np.ndarray:
    return make_ndarray(events.Tensors(tag)[-1].tensor_proto)


def test_tensorboard_reads_what_was_planned_and_calibrated(
    quantized: tuple, tmp_path: Path
) -> None:
    model, statistics = quantized
    write_summaries(model, statistics, tmp_path / "new" / "folder", step=7)
    events = read(tmp_path / "new" / "folder")
    own = [name for name, tensor in model.plan.tensors.items() if tensor.source == name]
    assert set(events.PluginTagToContent("histograms")) == {f"activations/{name}" for name in own}
    assert {f"clip/{name}" for name in own} <= set(events.PluginTagToContent("images"))
    for name in own:
        (event,) = events.Tensors(f"activations/{name}")
        assert event.step == 7
        left, right, counts = make_ndarray(event.tensor_proto).T
        merged = statistics[name].per_tensor()
        assert (left[0], right[-1]) == (merged.minimum[0], merged.maximum[0])
        np.testing.assert_array_equal(left[1:], right[:-1])
        assert counts.sum() == pytest.approx(merged.count[0])
        bits = model.plan.tensors[name].bits
        assert value(events, f"bits/activations/{name}") == pytest.approx(bits.mean())
    for layer in ("conv/linear", "head"):
        bits = model.plan.layer(layer).weight_bits
        assert value(events, f"bits/weights/{layer}") == pytest.approx(bits.mean())
        width, height, png = value(events, f"bits_per_channel/{layer}/weights")
        picture = Image.open(io.BytesIO(png))
        assert picture.size == (int(width), int(height))


def test_the_monitor_writes_them_at_each_epoch(images: np.ndarray, tmp_path: Path) -> None:
    model = network()
    monitor = PostTrainingQuantizationMonitor(images, None, PER_CHANNEL, log_dir=tmp_path)
    model.fit(images, np.zeros((16, 3)), epochs=2, verbose=0, callbacks=[monitor])
    events = read(tmp_path)
    assert [event.step for event in events.Tensors("clip/image")] == [0, 1]
    assert [event.step for event in events.Tensors("bits/weights/head")] == [0, 1]


def test_a_folder_that_cannot_be_made_is_refused(quantized: tuple, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="must be written to a writable folder"):
        write_summaries(*quantized, tmp_path / "file" / "folder")


def test_tensorboard_need_not_be_installed(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["tensorboard"] = None
import keras, numpy as np
from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.tensorboard_summaries import write_summaries
model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 3)])
statistics = calibrate(model, np.ones((2, 4, 4, 2)))
quantized = quantize_model(model, statistics, QuantizationConfig())
write_summaries(quantized, statistics, {str(tmp_path)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("events.*"))) == 1
