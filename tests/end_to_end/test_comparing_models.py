"""`compare` on real networks: equal where files are right, and it names the layer that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_networks import Exported, exported

from tflite_ptq4.converters.flatbuffer_model import parse, serialize
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.evaluation.model_comparison import ModelComparison, compare_models
from tflite_ptq4.evaluation.open_models import OpenModel, open_keras, open_tflite
from tflite_ptq4.image_data import ImageSet


def compare(made: Exported, first: OpenModel, second: OpenModel) -> ModelComparison:
    names = tuple(map(str, range(len(made.images[0]))))
    images = ImageSet(tuple(made.images), None, names)
    return compare_models(first, second, images, threshold_db=30.0)


def with_a_wrong_bias(data: bytes, layer: str) -> bytes:
    model = parse(data)
    editor = GraphEditor(model)
    (bias,) = [t for t in editor.tensors if t.name.decode() == f"{layer}/bias"]
    values = model.buffers[bias.buffer].data.view(np.int32).copy()
    values += 1 << 12
    model.buffers[bias.buffer].data = values.view(np.uint8)
    return serialize(model)


@pytest.mark.parametrize("network", ["residual", "softmax_classifier", "unet"])
def test_a_file_is_equal_to_its_simulation_in_every_layer(network: str) -> None:
    made = exported(network, "w4a8")
    simulated = open_keras(made.quantized.simulated_model, name="simulated")
    found = compare(made, simulated, open_tflite(made.file(), name="file"))
    assert found.layers and all(layer.equal for layer in found.layers)
    assert {layer.integers_that_differ for layer in found.layers} <= {0, None}
    # A tensor brought to the scale of a concatenation is named after what was rescaled.
    assert all("rescaled" in name for name in (*found.only_in_first, *found.only_in_second))


def test_the_layer_that_is_wrong_in_a_file_is_named() -> None:
    made = exported("residual", "w4a8")
    name = [node.name for node in made.source().graph.weighted_nodes][1]
    broken = open_tflite(with_a_wrong_bias(made.file(), name), name="broken")
    found = compare(made, open_keras(made.quantized.simulated_model, name="simulated"), broken)
    assert found.first_difference.second == found.parting.second == name
    assert found.largest_drop[1] is found.parting


# What TFLiteConverter says each time that it quantizes after training.
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning")
@pytest.mark.parametrize("optimize", [False, True])
def test_files_of_tfliteconverter_are_matched_by_their_layers(optimize: bool) -> None:
    made = exported("residual", "w4a8")
    converter = tf.lite.TFLiteConverter.from_keras_model(made.model)
    if optimize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in made.images[0])
    foreign = open_tflite(converter.convert(), name="foreign")
    found = compare(made, open_keras(made.model, name="float"), foreign)
    assert (found.only_in_first, found.only_in_second) == ((), ())
    assert [layer.first for layer in found.layers] == list(made.source().graph.tensors)
    worst = min(layer.sqnr_db for layer in found.layers)
    assert 25 < worst < 60 if optimize else worst > 90


def test_a_model_of_a_fixed_batch_size_is_run_in_batches() -> None:
    layers = [keras.layers.Conv2D(2, 3, name="conv"), keras.layers.Flatten(name="flat")]
    model = keras.Sequential([keras.Input(batch_shape=(3, 4, 4, 1)), *layers])
    images = np.arange(64, dtype=np.float32).reshape(4, 4, 4, 1)
    found = open_keras(model, name="m").run([images])
    assert [values.shape for values in found] == [(4, 16), (4, 8), (4, 8)]
    expected = model.predict(np.concatenate([images, images[:2]]), batch_size=3, verbose=0)[:4]
    np.testing.assert_allclose(found[-1], expected, rtol=1e-5)


def test_the_command_loads_a_saved_simulation(tmp_path: Path) -> None:
    made = exported("residual", "w4a8")
    made.quantized.simulated_model.save(tmp_path / "simulated.keras")
    (tmp_path / "file.tflite").write_bytes(made.file())
    np.save(tmp_path / "images.npy", made.images[0])
    # In a process of its own nothing has registered our layers yet.
    command = "-m tflite_ptq4 compare simulated.keras file.tflite --data images.npy --json"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(layer["equal"] for layer in result["layers"])
    assert result["first_difference"] is None
