"""Every exported file passes the flatbuffers verifier, and its buffers lie where they must.

The Python package of flatbuffers has no verifier; LiteRT has the generated one of the schema in its
library and runs it over every file that it loads. It does not ask for the schema's alignment of
buffers to 16 bytes, which reading without copies needs.
"""

from __future__ import annotations

import keras_networks
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from exported_networks import INTEGER_FILES, exported
from runtimes import buffer_offsets

NETWORKS = sorted({**keras_networks.NETWORKS, **keras_networks.WIDER_NETWORKS})
FILES = [
    *((*file, "float32") for file in INTEGER_FILES),
    ("w4a4", "int8_container", "fast", "int8"),
    ("w4a8", "packed_int4", "smallest", "int8"),
    ("w4a4_signed4", "float_simulated", "fast", "float32"),
    ("paper_w4a4", "float_simulated", "fast", "float32"),
]


@pytest.mark.parametrize(("config", "target", "layout", "io"), FILES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_is_a_valid_flatbuffer(
    network: str, config: str, target: str, layout: str, io: str
) -> None:
    data = exported(network, config).file(target, io=io, layout=layout)
    Interpreter(model_content=data)
    offsets = buffer_offsets(data)
    assert len(offsets) > 3
    assert {offset % 16 for offset in offsets} == {0}


def test_what_is_no_valid_flatbuffer_is_found() -> None:
    """Each of the offsets from the root table to what it holds, one after the other, off the file.

    Were the verifier left out, these would be read: a crash, or another error.
    """
    data = exported("residual", "w4a4").file()
    table = schema.Model.GetRootAs(data, 0)._tab
    places = [0]  # of the root table itself
    for field in range(1, 8):  # operator codes, graphs, description, buffers, metadata, signatures
        offset = table.Offset(4 + 2 * field)
        if offset:
            places.append(table.Pos + offset)
    assert len(places) >= 5
    for place in places:
        broken = bytearray(data)
        broken[place : place + 4] = (len(data) + 64).to_bytes(4, "little")
        with pytest.raises(ValueError, match="not a valid Flatbuffer"):
            Interpreter(model_content=bytes(broken))
