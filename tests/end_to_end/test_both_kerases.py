"""The same network in Keras 3 and in tf_keras: the same plan and the same file, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tf_keras
import two_kerases

from tflite_ptq4 import QuantizationConfig, QuantizedModel, calibrate, quantize_model
from tflite_ptq4.cli import main

CONFIGS = {
    "w4a8": QuantizationConfig.preset("w4a8"),
    "paper_w4a4": QuantizationConfig.preset("paper_w4a4"),
}
TARGETS = {
    "w4a8": ("int8_container", "packed_int4", "float_simulated"),
    "paper_w4a4": ("float_simulated",),
}


def quantized(network, library, config: QuantizationConfig) -> QuantizedModel:
    model = network(library)
    images = two_kerases.images_of(model)
    return quantize_model(model, calibrate(model, images), config, images=images)


@pytest.mark.parametrize(
    ("network", "preset"),
    [
        (two_kerases.classifier, "w4a8"),
        (two_kerases.classifier, "paper_w4a4"),
        (two_kerases.two_inputs, "w4a8"),
    ],
)
def test_every_target_has_the_same_bytes(network, preset: str) -> None:
    ours, theirs = (quantized(network, library, CONFIGS[preset]) for library in two_kerases.BOTH)
    assert theirs.plan.to_dict() == ours.plan.to_dict()
    assert theirs.report.render() == ours.report.render()
    for target in TARGETS[preset]:
        assert theirs.to_tflite(target) == ours.to_tflite(target)
    images = two_kerases.images_of(network(keras))
    found, expected = (each.simulated_model.predict(images, verbose=0) for each in (theirs, ours))
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: one network in four files, and images."""
    monkeypatch.chdir(tmp_path)
    two_kerases.sequential(keras).save("keras_3.keras")
    model = two_kerases.sequential(tf_keras)
    model.save("keras_2.keras")
    model.save("keras_2.h5")
    model.save("keras_2", save_format="tf")
    images = two_kerases.images_of(model)
    np.savez("images.npz", x=images, y=np.zeros(len(images), np.int64))
    return tmp_path


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_the_commands_take_every_kind_of_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("keras_3.keras", "keras_2.keras", "keras_2.h5", "keras_2")
    made = set()
    for name in files:
        argv = ["quantize", name, "--calibration", "images.npz", "--output", "out.tflite"]
        assert main([*argv, "--preset", "w8a8"]) == 0
        made.add((folder / "out.tflite").read_bytes())
    assert len(made) == 1
    calibrate_h5 = ["calibrate", "keras_2.h5", "--calibration", "images.npz"]
    assert main([*calibrate_h5, "--output", "s.npz", "--framework", "tf_keras"]) == 0
    statistics = ["--statistics", "s.npz", "--output", "from_statistics.tflite"]
    assert main(["quantize", "keras_3.keras", *statistics]) == 0
    capsys.readouterr()
    assert main(["evaluate", *files, "--data", "images.npz", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [row["agreement"] for row in rows[1:]] == [1.0] * 3
    assert rows[3]["bytes"] == sum(
        file.stat().st_size for file in (folder / "keras_2").rglob("*") if file.is_file()
    )


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_the_framework_can_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["quantize", "keras_2.h5", "--calibration", "images.npz", "--output", "out.tflite"]
    assert main([*argv, "--framework", "keras"]) == 2
    assert "Read it with tf_keras (--framework tf_keras)" in capsys.readouterr().err
    assert not (folder / "out.tflite").exists()
