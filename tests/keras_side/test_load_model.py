from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tflite_ptq4.errors import FileFormatError, ModelError
from tflite_ptq4.keras_side.load_model import image_input_shape, input_shapes, load_model


def small_model() -> keras.Model:
    return keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3, name="conv")])


def test_a_saved_model_comes_back(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_model()
    model.save(tmp_path / "m.keras")
    images = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    loaded = load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert image_input_shape(loaded) == (4, 4, 3)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without(member: str) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            kept = {name: archive.read(name) for name in archive.namelist() if name != member}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in kept.items():
                archive.writestr(name, content)

    return rewrite


def _configured(text: str) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        _without("config.json")(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("config.json", text)

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.write_bytes(b""), "not a .keras file"),
        (_cut_short, "not a .keras file"),
        (_without("config.json"), "not a whole Keras model"),
        (_without("model.weights.h5"), "not a whole Keras model"),
        (_configured("{"), "not a whole Keras model"),
        (_configured("[]"), "not a whole Keras model"),
        (_configured('{"class_name": "Sequential"}'), "not a whole Keras model"),
    ],
    ids=["absent", "empty", "cut short", "no config", "no weights", "no JSON", "list", "half"],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "m.keras"
    small_model().save(path)
    damage(path)
    with pytest.raises(FileFormatError, match=message) as refused:
        load_model(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("version", "advice"), [("99.1.0", "Update Keras"), ("3.0.1", r"model\.load_weights")]
)
def test_a_file_of_another_keras_that_cannot_be_read_says_so(
    tmp_path: Path, version: str, advice: str
) -> None:
    path = tmp_path / "m.keras"
    small_model().save(path)
    _configured("{}")(path)
    _without("metadata.json")(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", f'{{"keras_version": "{version}"}}')
    said = rf"was saved with Keras {re.escape(version)}, and Keras 3\..*{advice}"
    with pytest.raises(FileFormatError, match=said):
        load_model(path)


def test_a_lambda_layer_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x)]).save(path)
    with pytest.raises(FileFormatError, match="Lambda layer"):
        load_model(path)


def test_a_layer_that_keras_does_not_know_is_named(tmp_path: Path) -> None:
    class Doubling(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((2,)), Doubling()]).save(path)
    with pytest.raises(FileFormatError, match=r"'Doubling', a class that Keras does not know"):
        load_model(path)


def test_a_model_without_one_image_input_is_refused() -> None:
    inputs = [keras.Input((2, 2, 1)), keras.Input((2, 2, 1))]
    with pytest.raises(ModelError, match="has 2"):
        image_input_shape(keras.Model(inputs, keras.layers.Add()(inputs)))
    with pytest.raises(ModelError, match="has 0"):
        image_input_shape(keras.Sequential([keras.layers.Conv2D(2, 3)]))


def test_the_shapes_of_several_inputs_come_by_name() -> None:
    inputs = [keras.Input((None, 2, 1), name="b"), keras.Input((3,), name="a")]
    model = keras.Model(inputs, [keras.layers.Flatten()(i) for i in inputs[::-1]])
    assert list(input_shapes(model).items()) == [("b", (None, 2, 1)), ("a", (3,))]
