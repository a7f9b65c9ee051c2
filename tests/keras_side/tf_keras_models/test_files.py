from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import two_kerases
from tf_keras import layers

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.keras_side.load_model import bytes_on_disk, framework_of, load_model
from tflite_ptq4.keras_side.tf_keras_models import files as tf_keras_files

NAMES = ("model.h5", "model.keras", "saved_model")

# As TensorFlow's SavedModel writer and h5py's reader say about themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`"),
]


def save(model: tf_keras.Model, path: Path) -> Path:
    model.save(path, **({} if path.suffix else {"save_format": "tf"}))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_comes_back_as_one_of_tf_keras(name: str, tmp_path: Path) -> None:
    model = two_kerases.classifier(tf_keras)
    path = save(model, tmp_path / name)
    assert framework_of(path) == framework_of(path, "tf_keras") == "tf_keras"
    loaded = load_model(path)
    assert isinstance(loaded, tf_keras.Model)
    images = two_kerases.images_of(model)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert bytes_on_disk(path) > 5_000


def test_a_file_of_keras_3_is_for_keras_3(tmp_path: Path) -> None:
    two_kerases.sequential(keras).save(tmp_path / "model.keras")
    assert framework_of(tmp_path / "model.keras") == "keras"
    with pytest.raises(FileFormatError, match=r"saved with Keras 3.*--framework keras"):
        framework_of(tmp_path / "model.keras", "tf_keras")
    two_kerases.sequential(keras).save(tmp_path / "model.h5")
    with pytest.raises(FileFormatError, match=r"save it with model.save\('model.keras'\)"):
        framework_of(tmp_path / "model.h5")
    with pytest.raises(FileFormatError, match=r"Keras 3 models must be \.keras files"):
        framework_of(tmp_path / "model.h5", "keras")


class Noticed(Exception):
    pass


def notice(x):
    raise Noticed


def with_a_lambda() -> tf_keras.Model:
    inputs = tf_keras.Input((4,))
    inside = tf_keras.Sequential([layers.Dense(3), layers.Lambda(lambda x: 2 * x)])
    return tf_keras.Model(inputs, inside(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_a_lambda_is_refused_before_anything_is_made_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(with_a_lambda(), tmp_path / name)
    for function in ("load_model", "model_from_json"):
        monkeypatch.setattr(tf_keras.models, function, notice)
    with pytest.raises(FileFormatError, match="Lambda layer, that is Python code") as refused:
        load_model(path)
    assert str(path) in str(refused.value)


class Doubling(layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_ones_own_is_named(name: str, tmp_path: Path) -> None:
    inputs = tf_keras.Input((4,))
    path = save(tf_keras.Model(inputs, Doubling()(layers.Dense(3)(inputs))), tmp_path / name)
    with pytest.raises(FileFormatError, match=r"'[^']*Doubling', which is not of tf_keras itself"):
        load_model(path)


@pytest.mark.parametrize(
    ("found", "refused"),
    [
        ({"class_name": "Dense", "module": "tf_keras.layers"}, None),
        ({"class_name": "Dense", "module": "builtins"}, "'Dense', which is not"),
        ({"class_name": "system", "module": "os"}, "'system', which is not"),
        ({"class_name": "function", "config": "mine"}, "'function', which is not"),
        ({"class_name": "__lambda__"}, "Lambda layer"),
        ({"class_name": "TFOpLambda", "config": {"function": "math.add"}}, None),
        ({"class_name": "TFOpLambda", "config": {"function": "reshape"}}, None),
        ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "io.write_file"),
        ({"class_name": "TFOpLambda", "config": {"function": "py_function"}}, "py_function"),
        ({"class_name": "TFOpLambda"}, "'TFOpLambda', which is not"),
        ({"class_name": "InstanceMethod"}, "'InstanceMethod', which is not"),
    ],
)
def test_what_a_file_may_hold(found: dict, refused: str | None, tmp_path: Path) -> None:
    """An HDF5 file with one object where an initializer belongs."""
    path = save(two_kerases.sequential(tf_keras), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][2]["config"]["an argument"] = [{"deep": found}]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(FileFormatError) as error:
        load_model(path)
    assert (refused or "is not a whole Keras model") in str(error.value)


def test_operations_of_tensorflow_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    inputs = tf_keras.Input((4, 4, 3))
    x = tf.nn.relu6(2.0 - layers.Conv2D(3, 1)(inputs) * 0.5 + 3.0)
    model = tf_keras.Model(inputs, tf.reduce_mean(x[:, 1:], axis=[1, 2]))
    images = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    loaded = load_model(save(model, tmp_path / "model.h5"))
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-6)


def _a_saved_model_without_keras(path: Path) -> None:
    (path / tf_keras_files.METADATA).unlink()


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_weights(path: Path) -> None:
    for file in (path / "variables").iterdir():
        file.unlink()


def _without_config(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]


def _as_if_newer(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.99.0"}')
        archive.writestr("config.json", "{}")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("saved_model", _a_saved_model_without_keras, r"SavedModel without the layers of Keras"),
        ("saved_model", _no_weights, "is not a whole Keras model"),
        ("model.h5", _cut_short, "is not a whole Keras model"),
        ("model.h5", _empty, "is not an HDF5 file"),
        ("model.h5", _without_config, "holds weights without the model"),
        ("model.keras", _cut_short, "is not a .keras file"),
        ("model.keras", _as_if_newer, r"saved with Keras 2\.99\.0, and Keras 2\."),
    ],
)
def test_a_damaged_file_is_refused(
    name: str, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = save(two_kerases.sequential(tf_keras), tmp_path / name)
    damage(path)
    with pytest.raises(FileFormatError, match=message) as refused:
        load_model(path)
    assert str(path) in str(refused.value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"a folder without saved_model\.pb"):
        framework_of(tmp_path)
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(FileFormatError, match=r"must be a \.keras file, or of tf_keras an"):
        framework_of(tmp_path / "model.txt")


def test_without_tf_keras_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(two_kerases.sequential(tf_keras), tmp_path / "model.h5")
    monkeypatch.setattr(tf_keras_files, "find_spec", lambda name: None)
    with pytest.raises(FileFormatError, match=r"not installed: pip install tf_keras\."):
        load_model(path)
