"""Float files are converted once, also where another thread has begun."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from keras_networks import build

from tflite_ptq4.errors import ModelError, OutputError
from tflite_ptq4.keras_side import float_files
from tflite_ptq4.keras_side.float_files import FloatFiles
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.second_thread import SecondThread


@pytest.fixture(scope="module")
def lowered():
    return lower(build("residual"))


@pytest.fixture(scope="module")
def shapes(lowered):
    return {name: lowered.graph.shapes[name][1:] for name in lowered.graph.inputs}


@pytest.fixture(scope="module")
def layers(lowered):
    return [node.name for node in lowered.graph.weighted_nodes]


def test_a_file_is_converted_once_for_sizes_and_layers(lowered, shapes, layers) -> None:
    files = FloatFiles(lowered)
    file = files.of(shapes, layers)
    assert files.of(dict(shapes), reversed(layers)) is file
    assert files.of(shapes, layers[1:]) is not file


def test_a_file_of_another_thread_is_waited_for(lowered, shapes, layers) -> None:
    files = FloatFiles(lowered)
    with SecondThread() as beside:
        files.start(beside, shapes, layers)
        made = files.of(shapes, layers)
    files.raise_refusals()
    assert files.of(shapes, layers) is made
    assert made.data == FloatFiles(lowered).of(shapes, layers).data


def test_what_is_refused_in_another_thread_is_raised(
    lowered, shapes, layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_) -> None:
        raise ModelError("no")

    monkeypatch.setattr(float_files, "to_float_tflite", refuse)
    files = FloatFiles(lowered)
    with SecondThread() as beside:
        files.start(beside, shapes, layers)
        with pytest.raises(ModelError, match="no"):
            files.of(shapes, layers)
        with pytest.raises(ModelError, match="no"):
            files.raise_refusals()


def test_no_space_for_temporary_files_is_said(
    lowered, shapes, layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of the folder stands in for a full disk."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda: str(in_the_way))
    with pytest.raises(OutputError, match="must be able to write temporary files"):
        FloatFiles(lowered).of(shapes, layers)
