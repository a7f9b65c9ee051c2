"""The simulated Keras model and the exported files compute the same numbers.

Both round the same real number. They may differ by one step where float32 sums of another order
put it on the other side of a tie: at 8 bits a sum is off by about 255 steps times a few float32
roundings, 1e-4 steps, so that fewer than one element in a thousand of a layer can differ. Such a
step in an early layer moves the outputs by as much as its weights say.
"""

from __future__ import annotations

import keras
import keras_networks
import numpy as np
import pytest
from exported_networks import CONFIGS, INTEGER_CONFIGS, Exported, exported
from file_checks import steps_apart
from runtimes import outputs

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.weights.kernel_layout import along_outputs

NETWORKS = sorted(keras_networks.NETWORKS)
LARGEST_SHARE_APART = 0.005
LARGEST_DISTANCE = 2.0  # steps


def assert_same_numbers(made: Exported, target: str) -> None:
    for apart in steps_apart(made, target):
        assert np.mean(apart > 0.5) <= LARGEST_SHARE_APART
        assert apart.max() <= LARGEST_DISTANCE


@pytest.mark.parametrize("config", INTEGER_CONFIGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_integer_file_computes_what_the_simulated_model_does(network: str, config: str) -> None:
    assert_same_numbers(exported(network, config), "int8_container")


@pytest.mark.parametrize("config", ["w4a8", "w4a4_signed4", "paper_w4a4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_float_file_computes_what_the_simulated_model_does(network: str, config: str) -> None:
    assert_same_numbers(exported(network, config), "float_simulated")


@pytest.mark.parametrize("network", ["conv_strided", "dense_after_flatten", "residual"])
def test_a_float_file_is_within_a_ten_thousandth_where_no_rounding_flips(network: str) -> None:
    made = exported(network, "paper_w4a4")
    (received,), (simulated,) = (
        outputs(made.file("float_simulated"), made.images),
        (made.simulated_outputs),
    )
    np.testing.assert_allclose(received, simulated, atol=1e-4 * np.abs(simulated).max())


def stored_kernels(data: bytes) -> dict[str, np.ndarray]:
    """The float kernels of a file by the name of their layer."""
    editor = GraphEditor(parse(data))
    return {
        tensor.name.decode().removesuffix("/kernel"): editor.constant(index)
        for index, tensor in enumerate(editor.tensors)
        if tensor.name.endswith(b"/kernel")
    }


@pytest.mark.parametrize("network", ["residual", "depthwise_multiplier", "dense_after_flatten"])
@pytest.mark.parametrize("config", ["w4a8", "w4a4"])
def test_the_weights_of_a_float_file_lie_on_their_grid(network: str, config: str) -> None:
    made = exported(network, config)
    source = made.source()
    kernels = stored_kernels(made.file("float_simulated"))
    assert set(kernels) == set(source.weights)
    for node in source.graph.weighted_nodes:
        weights = source.weights[node.name]
        values = np.unique(kernels[node.name])
        grid = weights.integers * along_outputs(node, weights.scale)
        assert np.isin(values, np.unique(grid.astype(np.float32))).all()
        largest = 2 ** (made.quantized.plan.layer(node.name).weight_bits - 1) - 1
        assert np.all(np.abs(weights.integers) <= along_outputs(node, largest))


@pytest.mark.parametrize("config", ["w4a4_signed4", "paper_w4a4"])
def test_the_simulated_model_saves_and_loads(config: str, tmp_path) -> None:
    made = exported("residual", config)
    made.quantized.simulated_model.save(tmp_path / "simulated.keras")
    loaded = keras.models.load_model(tmp_path / "simulated.keras")
    np.testing.assert_array_equal(loaded(made.images[0]), made.simulated_outputs[0])


def test_every_config_is_exercised() -> None:
    assert {*INTEGER_CONFIGS, "paper_w4a4"} == set(CONFIGS)


@pytest.mark.parametrize("config", INTEGER_CONFIGS)
def test_a_faint_channel_keeps_a_bias_that_its_accumulator_cannot_hold(config: str) -> None:
    """Cut off at 2^31 steps, the bias would cost 30 dB, and wrap around with the first product."""
    made = exported("bias_beyond_the_accumulator", config)
    exact = np.asarray(made.model(made.images[0]))
    error = outputs(made.file(), made.images)[0] - exact
    assert 10 * np.log10(np.mean(exact**2) / np.mean(error**2)) > 30.0
