"""What a user of an exported file meets: names, types, description, layout, the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import keras_networks
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from exported_networks import CONFIGS, calibrate, export_model, exported
from runtimes import as_stored, interpreter, operator_names, outputs

from tflite_ptq4 import QuantizationConfig
from tflite_ptq4.config.description import describe
from tflite_ptq4.file_inspection import inspect_file

SUPPORT = Path(keras_networks.__file__).parent
TARGETS = ["int8_container", "float_simulated"]


@pytest.mark.parametrize("network", ["residual", "several_inputs", "several_outputs"])
@pytest.mark.parametrize("config", ["w8a8", "w4a4_signed4"])
def test_integer_ends_compute_what_float_ends_do(network: str, config: str) -> None:
    made = exported(network, config)
    with_float, with_int8 = made.file(io="float32"), made.file(io="int8")
    ready = interpreter(with_int8)
    inputs, results = ready.get_input_details(), ready.get_output_details()
    assert {detail["dtype"] for detail in (*inputs, *results)} == {np.int8}
    assert {d["dtype"] for d in interpreter(with_float).get_input_details()} == {np.float32}
    coded = [as_stored(x, detail) for x, detail in zip(made.images, inputs, strict=True)]
    for integers, real, detail in zip(
        outputs(with_int8, coded), outputs(with_float, made.images), results, strict=True
    ):
        scale, zero_point = detail["quantization"]
        expected = (integers.astype(np.float32) - zero_point) * np.float32(scale)
        np.testing.assert_array_equal(expected, real)
    names = operator_names(with_float)
    assert names.count("QUANTIZE") - operator_names(with_int8).count("QUANTIZE") == len(inputs)
    assert names.count("DEQUANTIZE") == len(results)
    assert "DEQUANTIZE" not in operator_names(with_int8)


@pytest.mark.parametrize("target", TARGETS)
def test_the_signature_has_the_names_of_the_keras_inputs(target: str) -> None:
    data = exported("several_inputs", "w4a8").file(target)
    (signature,) = interpreter(data).get_signature_list().values()
    assert signature == {"inputs": ["left", "right"], "outputs": ["output_0"]}


@pytest.mark.parametrize("target", TARGETS)
def test_the_signature_has_the_keys_of_a_dict_of_outputs(target: str) -> None:
    made = exported("several_outputs", "w4a8")
    run = interpreter(made.file(target)).get_signature_runner("serving_default")
    results = run(image=made.image(0)[0])
    simulated = made.quantized.simulated_model(made.image(0)[0])
    assert {key: value.shape for key, value in results.items()} == {
        "logits": (1, 3),
        "features": (1, 4, 4, 4),
        "early": (1, 8, 8, 6),
    }
    for key, value in results.items():
        scale = np.abs(value).max() / 100
        np.testing.assert_allclose(value, simulated[key], atol=scale)


@pytest.mark.parametrize("target", TARGETS)
def test_the_description_says_what_made_the_file(target: str) -> None:
    made = exported("residual", "w4a8")
    model = schema.ModelT.InitFromPackedBuf(made.file(target), 0)
    assert model.description.decode().startswith("tflite-ptq4 ")
    assert describe(CONFIGS["w4a8"]) in model.description.decode()
    assert model.version == 3


@pytest.mark.parametrize("io", ["float32", "int8"])
@pytest.mark.parametrize("network", ["several_inputs", "several_outputs"])
def test_the_metadata_say_how_to_feed_the_file(network: str, io: str) -> None:
    """Scale and zero point of each end, which a file of float32 ends keeps nowhere else."""
    made = exported(network, "w4a8")
    facts = inspect_file(made.file(io=io)).metadata["tflite_ptq4"]
    assert QuantizationConfig.from_dict(facts["config"]) == made.quantized.plan.config
    assert (facts["target"], facts["io"]) == ("int8_container", io)
    ready = interpreter(made.file(io="int8"))
    for key, details in (
        ("inputs", ready.get_input_details()),
        ("outputs", ready.get_output_details()),
    ):
        assert [(entry["scale"], entry["zero_point"]) for entry in facts[key]] == [
            pytest.approx(detail["quantization"]) for detail in details
        ]
    signature = ready.get_signature_list()["serving_default"]
    assert [entry["name"] for entry in facts["inputs"]] == signature["inputs"]
    assert {entry["name"] for entry in facts["outputs"]} == set(signature["outputs"])


@pytest.mark.parametrize(
    ("config", "target", "layout", "oldest"),
    [
        ("w4a8", "int8_container", "fast", "2.3.0"),
        ("w4a8", "packed_int4", "smallest", "2.14.0"),
        ("w4a4_everywhere", "packed_int4", "fast", "2.19.0"),
        ("w4a8", "float_simulated", "fast", "1.14.0"),
    ],
)
def test_the_oldest_runtime(config: str, target: str, layout: str, oldest: str) -> None:
    data = exported("separable", config).file(target, layout=layout)
    assert inspect_file(data).metadata["min_runtime_version"] == oldest


def digest(network: str, config: str, target: str) -> str:
    """Everything anew, from the Keras model to the bytes."""
    model = keras_networks.build(network)
    images = keras_networks.images_for(model)
    made = export_model(model, images, calibrate(model, images), CONFIGS[config])
    return hashlib.sha256(made.quantized.to_tflite(target=target)).hexdigest()


def test_the_same_model_gives_the_same_bytes_here_and_in_a_fresh_process() -> None:
    wanted = [("residual", "w4a4_signed4", "int8_container"), ("pools", "w4a8", "float_simulated")]
    here = [digest(*choice) for choice in wanted]
    assert here == [digest(*choice) for choice in wanted]
    code = f"""
import sys
sys.path[:0] = [{str(SUPPORT)!r}, {str(Path(__file__).parent)!r}]
from test_file_interface import digest
print(*[digest(*choice) for choice in {wanted!r}])
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].split() == here


def test_layers_without_an_integer_form_stay_float_between_the_two_conversions() -> None:
    made = exported("lambda_in_the_middle", "w4a8")
    assert operator_names(made.file()) == [
        "QUANTIZE",
        "CONV_2D",
        "DEQUANTIZE",
        "SIN",
        "QUANTIZE",
        "CONV_2D",
        "DEQUANTIZE",
    ]
    (in_float,) = made.quantized.plan.in_float
    assert in_float.layer_type == "Lambda"
    assert in_float.reason


def test_a_tensor_read_in_integers_and_in_float_is_converted_once() -> None:
    names = operator_names(exported("float_branch", "w4a8").file())
    assert names[:2] == ["QUANTIZE", "CONV_2D"]
    assert names.count("QUANTIZE") == 2  # the image, and what comes back from LayerNormalization
    assert names.count("DEQUANTIZE") == 3  # into LayerNormalization, and both outputs


def test_integer_ends_stay_float_where_the_layer_there_is() -> None:
    ready = interpreter(exported("float_at_both_ends", "w8a8").file(io="int8"))
    types = [d["dtype"] for d in (*ready.get_input_details(), *ready.get_output_details())]
    assert types == [np.float32, np.float32]
