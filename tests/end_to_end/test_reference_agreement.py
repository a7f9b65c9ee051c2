"""Every tensor of every exported file in LiteRT against an independent numpy reference."""

from __future__ import annotations

import keras_networks
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from exported_networks import INTEGER_FILES, exported
from file_checks import compare_with_reference
from integer_reference import OPERATORS, Reference
from tiny_tflite import pack

from tflite_ptq4.converters.integer_operators import INT8_VERSIONS
from tflite_ptq4.tflite_fields import OPERATOR_NAMES

NETWORKS = sorted({**keras_networks.NETWORKS, **keras_networks.WIDER_NETWORKS})
IMAGES = 3


@pytest.mark.parametrize(("config", "target", "layout"), INTEGER_FILES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_of_an_integer_file(
    network: str, config: str, target: str, layout: str
) -> None:
    made = exported(network, config)
    found = compare_with_reference(made.file(target, layout=layout), made.images, IMAGES)
    assert found.elements.total() > 50
    assert found.differing == {}


@pytest.mark.parametrize("config", ["w4a8", "paper_w4a4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_of_a_float_file(network: str, config: str) -> None:
    """Steps that round once are equal, sums of another order to a part in 100,000."""
    made = exported(network, config)
    found = compare_with_reference(made.file("float_simulated"), made.images, IMAGES)
    assert found.elements["ROUND"] > 50
    assert found.differing == {}


def test_the_networks_hold_every_operator_that_is_written_in_int8() -> None:
    held = set()
    for network in NETWORKS:
        for config, target, layout in (INTEGER_FILES[0], INTEGER_FILES[-1]):
            made = exported(network, config)
            data = made.file(target, layout=layout)
            held |= set(compare_with_reference(data, made.images, count=1).tensors)
    written = {OPERATOR_NAMES[code] for code in INT8_VERSIONS}
    # A ReLU on its own is written as a product with one.
    assert written - held == {"RELU", "RELU6"}
    assert held <= set(OPERATORS)


def test_a_changed_weight_is_found_where_it_is_used() -> None:
    made = exported("residual", "w4a8")
    model = schema.ModelT.InitFromPackedBuf(made.file(), 0)
    kernel = next(t for t in model.subgraphs[0].tensors if t.name.endswith(b"/kernel"))
    altered = np.array(model.buffers[kernel.buffer].data)
    altered[:8] ^= 4
    model.buffers[kernel.buffer].data = altered
    found = compare_with_reference(made.file(), made.images, 1, Reference(pack(model)))
    assert set(found.differing) == {"CONV_2D"}
    assert 0 < found.differing["CONV_2D"] < found.elements["CONV_2D"] / 2
