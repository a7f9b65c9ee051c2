"""Models of `tf_keras` (Keras 2) in files: `.keras`, `.h5` and SavedModel folders.

Keras 2 runs Python code that an `.h5` file or a SavedModel carries. Here every class that a file
names is looked at before anything is made of it, and of a SavedModel only the layers' configs and
the weights are read, never its functions.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite_ptq4.errors import FileFormatError

if TYPE_CHECKING:
    import tf_keras

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
SAVED_MODEL = "saved_model.pb"
METADATA = "keras_metadata.pb"

# Values that configs write as if they were objects.
_PLAIN = {"__tuple__", "__ellipsis__", "__numpy__", "__tensor__", "TensorShape", "TypeSpec"}
_MODELS = {"Functional", "Model", "Sequential"}
_FRAMEWORKS = {"keras", "tf_keras"}

# Functions of TensorFlow that compute on tensors and do nothing else.
_OPERATION_LAYERS = {"TFOpLambda", "SlicingOpLambda"}
_OPERATION_MODULES = ("math.", "nn.", "__operators__.")
_OPERATION_NAMES = """
    cast clip_by_value concat constant expand_dims gather identity image.resize pad repeat reshape
    reverse shape slice split squeeze stack strided_slice tile transpose unstack
"""
_OPERATIONS = frozenset(_OPERATION_NAMES.split())


class RefusedContent(ValueError):
    """What a file holds and must not be made of it: the message is the rest of a sentence."""


def load(path: Path) -> tf_keras.Model:
    """Load a model of tf_keras for inference; no code that the file carries is run.

    Args:
        path: a `.keras` file, an HDF5 file or the folder of a SavedModel.

    Returns:
        The model, not compiled.

    Raises:
        FileFormatError: tf_keras is not installed.
        RefusedContent: the file holds a Lambda, an unknown class, or no description of its layers.
        Exception: whatever tf_keras raises at a damaged file.
    """
    if find_spec("tf_keras") is None:
        raise FileFormatError(
            f"{str(path)!r} is a model of Keras 2, which the package tf_keras reads, and that is "
            "not installed: pip install tf_keras."
        )
    import tf_keras

    config = _config(path)
    for found in _objects(config):
        _refuse_unknown(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not path.is_dir():
            return tf_keras.models.load_model(path, compile=False)
        model = tf_keras.models.model_from_json(json.dumps(config))
        model.load_weights(path).assert_existing_objects_matched().expect_partial()
    return model


def _config(path: Path) -> dict[str, Any]:
    """What a file says of its model: `class_name` and `config`."""
    if path.is_dir():
        return _saved_model_config(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise RefusedContent(
                "holds weights without the model that they belong to. Save the whole model, with "
                "model.save('model.h5')."
            )
        return json.loads(file.attrs["model_config"])


def _saved_model_config(path: Path) -> dict[str, Any]:
    from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata

    if not (path / METADATA).is_file():
        raise RefusedContent(
            f"is a SavedModel without the layers of Keras in it ({METADATA}), only what they "
            "compute. Save the model itself, with model.save('model.keras')."
        )
    metadata = SavedMetadata.FromString((path / METADATA).read_bytes())
    root = json.loads(next(node.metadata for node in metadata.nodes if node.node_path == "root"))
    if "config" not in root or root["class_name"] not in _MODELS:
        raise RefusedContent(
            f"holds a model of the class {root.get('class_name')!r}, not a functional or "
            "Sequential one, so its layers cannot be read. Call it on a tf_keras.Input, wrap the "
            "result, tf_keras.Model(inputs, outputs), and save that."
        )
    return {"class_name": root["class_name"], "config": root["config"]}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a config, however deep."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _refuse_unknown(found: dict[str, Any]) -> None:
    import tf_keras

    name, config = found["class_name"], found.get("config")
    module = str(found.get("module") or "keras").partition(".")[0]
    if name in ("Lambda", "__lambda__"):
        raise RefusedContent(
            "holds a Lambda layer, that is Python code, which is not run from a file. Load it in "
            "Python, if you trust it, and call tflite_ptq4.quantize_model there."
        )
    if name in _OPERATION_LAYERS and isinstance(config, dict):
        function = str(config.get("function"))
        if function.startswith(_OPERATION_MODULES) or function in _OPERATIONS:
            return
        name = f"tf.{function}"
    known = name in _MODELS | _PLAIN or any(
        isinstance(getattr(group, str(name), None), type)
        for group in (
            tf_keras.layers,
            tf_keras.initializers,
            tf_keras.regularizers,
            tf_keras.constraints,
            tf_keras.mixed_precision,
        )
    )
    if not known or module not in _FRAMEWORKS:
        raise RefusedContent(
            f"holds {name!r}, which is not of tf_keras itself. Load it in Python, after the module "
            "that defines it, and call tflite_ptq4.quantize_model there."
        )
