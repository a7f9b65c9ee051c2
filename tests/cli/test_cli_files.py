"""The commands that need no Keras, and all that is refused before Keras is loaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4 import cli
from tflite_ptq4.cli import main
from tflite_ptq4.cli.model_files import common_input_shapes
from tflite_ptq4.errors import DataError, ModelError
from tflite_ptq4.evaluation.runnable_models import RunnableModel

KERNEL = np.array([[-7, 3, 5], [1, 0, -1]], np.int8).reshape(2, 1, 1, 3)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Images with labels, two .tflite files, and what passes for a model until it is loaded."""
    (tmp_path / "first.tflite").write_bytes(float_dense(np.eye(4)))
    (tmp_path / "second.tflite").write_bytes(float_dense(np.diag([1.0, 1.0, 1.0, 0.0])))
    (tmp_path / "conv.tflite").write_bytes(int8_conv(KERNEL))
    # The largest pixel of image i is i: its class for the first model.
    images = np.eye(4).reshape(4, 2, 2, 1)
    np.savez(tmp_path / "data.npz", x=images, y=[0, 1, 2, 0])
    np.save(tmp_path / "unlabelled.npy", images)
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    return tmp_path


def taking(name: str, **shapes: tuple[int | None, ...]) -> RunnableModel:
    return RunnableModel(name, 1, shapes, 1, lambda images, progress: images[0])


class TestCommonInputs:
    def test_open_sides_are_closed_by_the_other_models(self) -> None:
        models = [
            taking("a", left=(None, None, 3), pose=(4,)),
            taking("b", pose=(4,), left=(8, None, 3)),
            taking("c", left=(None, 6, 3), pose=(4,)),
        ]
        found = common_input_shapes(models)
        assert list(found.items()) == [("left", (8, 6, 3)), ("pose", (4,))]

    def test_the_only_input_may_have_any_name(self) -> None:
        models = [taking("a", image=(None, 4, 3)), taking("b", serving_default_x=(4, 4, 3))]
        assert common_input_shapes(models) == {"image": (4, 4, 3)}

    @pytest.mark.parametrize(
        "other",
        [
            {"left": (8, 8, 3)},
            {"left": (8, 8, 3), "pose": (5,)},
            {"left": (8, 8), "pose": (4,)},
            {"left": (8, 8, 3), "pose_1": (4,)},
            {"left": (8, 8, 3), "pose": (4,), "more": (4,)},
        ],
    )
    def test_other_inputs_are_refused(self, other: dict) -> None:
        message = r"'a' takes 'left' of 8 x any x 3, 'pose' of 4, 'b' takes 'left' of 8 x 8"
        with pytest.raises(ModelError, match=message):
            common_input_shapes([taking("a", left=(8, None, 3), pose=(4,)), taking("b", **other)])


class TestInspect:
    def test_a_table_for_people(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(folder / "conv.tflite")]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "weights: 8.00 bits each in the file, 3.00 used" in out
        (weights,) = [line for line in out.splitlines() if "2x1x1x3" in line]
        assert weights.split()[1:] == ["CONV_2D", "2x1x1x3", "INT8", "6", "8", "3.00", "[-7,", "5]"]
        (output,) = [line for line in out.splitlines() if line.endswith("112      16")]
        assert output.split()[1:3] == ["CONV_2D", "INT8"]

    def test_json_for_machines(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(folder / "conv.tflite"), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["file"] == str(folder / "conv.tflite")
        assert sum(result["bytes_by_kind"].values()) == result["file_bytes"]


class TestEvaluate:
    def test_json_for_machines(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        models = [str(folder / "first.tflite"), str(folder / "second.tflite")]
        assert main(["evaluate", *models, "--data", str(folder / "data.npz"), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["images"] == 4
        first, second = result["models"]
        assert first == {
            "name": models[0],
            "bytes": (folder / "first.tflite").stat().st_size,
            "top1": 3 / 4,
            "top5": 1.0,
            "agreement": 1.0,
            "sqnr_db": None,
        }
        # Image 3 gives zeros in the second model, class 0: the label, but not what the first says.
        assert (second["top1"], second["agreement"]) == (1.0, 3 / 4)
        assert second["sqnr_db"] == pytest.approx(10 * np.log10(4 / 1))

    def test_a_table_for_people(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        models = [str(folder / "first.tflite"), str(folder / "second.tflite")]
        data = str(folder / "unlabelled.npy")
        assert main(["evaluate", *models, "--data", data, "--samples", "2"]) == 0
        out, err = capsys.readouterr()
        title, heading, first, second = out.strip().splitlines()
        assert title == f"2 images of {data}"
        assert heading.split() == ["model", "bytes", "top-1", "top-5", "agreement", "SQNR"]
        assert first.split()[2:] == ["-", "-", "100.00%", "equal"]
        # Of the images 0 and 3 it is 3 that the second answers otherwise: 10 log10(2 / 1).
        assert second.split()[2:] == ["-", "-", "50.00%", "3.0", "dB"]
        assert "no labels" in err

    def test_models_that_take_other_images_are_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        models = [str(folder / "first.tflite"), str(folder / "conv.tflite")]
        assert main(["evaluate", *models, "--data", str(folder / "data.npz")]) == 2
        assert "must take the same images" in capsys.readouterr().err


class TestCompare:
    def run(self, folder: Path, *options: str, second: str = "second.tflite") -> int:
        models = [str(folder / "first.tflite"), str(folder / second)]
        return main(["compare", *models, "--data", str(folder / "unlabelled.npy"), *options])

    def test_json_for_machines(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(folder, "--json") == 1
        result = json.loads(capsys.readouterr().out)
        assert (result["images"], result["threshold_db"]) == (4, 20.0)
        image, output = result["layers"]
        assert image["equal"] and image["sqnr_db"] is None
        assert output["sqnr_db"] == pytest.approx(10 * np.log10(4 / 1))
        assert result["parting"] == output["first"]

    def test_a_table_for_people(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(folder, "--threshold", "6") == 0
        out = capsys.readouterr().out
        (row,) = [line for line in out.splitlines() if "(output)" in line]
        names = ["tensor_2", "(output)", "tensor_2", "output"]
        assert row.split() == [*names, "6.0", "dB", "0.866025", "1", "-"]
        assert "The first difference is in tensor_2 (6.0 dB)" in out
        assert "No layer is below 6 dB" in out
        assert self.run(folder) == 1
        assert "The models part at tensor_2 (6.0 dB)" in capsys.readouterr().out

    def test_equal_files(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(folder, second="first.tflite") == 0
        assert "Equal: no value differs" in capsys.readouterr().out

    def test_the_error_can_be_drawn_over_the_graph(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(folder, "--model-explorer", str(folder / "overlay")) == 1
        (written,) = (folder / "overlay").iterdir()
        (graph,) = json.loads(written.read_text()).values()
        assert graph["results"] == {"tensor_2": {"value": 6.02}}
        assert f"--node_data_paths={written}" in capsys.readouterr().err

    def test_layers_without_a_partner_are_named(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        network = TinyModel()
        image, flat = network.activation((1, 2, 2, 1)), network.activation((1, 4))
        network.operator("RESHAPE", [image, network.constant(np.array([1, 4], np.int32))], flat)
        more = [network.activation((1, 4, 1)) for _ in range(15)]
        for source, result in pairwise([flat, *more]):
            network.operator("ABS", [source], result)
        (folder / "third.tflite").write_bytes(network.to_bytes([image], [more[-1]]))
        assert self.run(folder, second="third.tflite") == 0
        out = capsys.readouterr().out
        assert "Not compared: 15 of" in out
        assert out.count("tensor_") == 4 + 12 and ", ..." in out

    def test_dead_layers_are_named_and_do_not_count(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, magnitude in (("alive.tflite", 1e-9), ("other.tflite", 1e-8)):
            network = TinyModel()
            image, nothing, result = (network.activation((1, 2, 2, 1)) for _ in range(3))
            factor = network.constant(np.array([magnitude], np.float32))
            network.operator("MUL", [image, factor], nothing)
            network.operator("ADD", [image, nothing], result)
            (folder / name).write_bytes(network.to_bytes([image], [result]))
        models = [str(folder / name) for name in ("alive.tflite", "other.tflite")]
        assert main(["compare", *models, "--data", str(folder / "unlabelled.npy")]) == 0
        out = capsys.readouterr().out
        (row,) = [line for line in out.splitlines() if line.split()[0:1] == ["tensor_1"]]
        assert row.split()[3] == "dead"
        (note,) = [line for line in out.splitlines() if line.startswith("Dead: 1 with")]
        assert note.endswith(": tensor_1")


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def _nothing(folder: Path) -> None:
    pass


QUANTIZE = ["quantize", "model.keras", "--calibration", "data.npz", "--output", "out.tflite"]
EVALUATE = ["evaluate", "first.tflite", "--data", "data.npz"]
COMPARE = ["compare", "first.tflite", "second.tflite", "--data", "data.npz"]


def _with(argv: list[str], **changes: str) -> list[str]:
    """The arguments with some replaced: the old text is the keyword, dots as underscores."""
    changes = {key.replace("_", "."): value for key, value in changes.items()}
    return [changes.get(argument, argument) for argument in argv]


@pytest.mark.parametrize(
    ("prepare", "argv", "message"),
    [
        (_nothing, _with(QUANTIZE, model_keras="absent.keras"), "no file 'absent.keras'"),
        (_write("m.keras", b"text"), _with(QUANTIZE, model_keras="m.keras"), "not a .keras file"),
        (_write("m.keras", b""), _with(QUANTIZE, model_keras="m.keras"), "not a .keras file"),
        (_write("m.h5", b"\x89HDF"), _with(QUANTIZE, model_keras="m.h5"), "not an HDF5 file"),
        (_nothing, _with(QUANTIZE, model_keras="."), "is a folder"),
        (_nothing, _with(QUANTIZE, data_npz="absent"), "no file or folder 'absent'"),
        (_nothing, _with(QUANTIZE, out_tflite="absent/out.tflite"), "must be writable"),
        (_nothing, _with(QUANTIZE, out_tflite="/proc/out.tflite"), "must be writable"),
        (_nothing, _with(QUANTIZE, out_tflite="."), "is a folder"),
        (_nothing, _with(QUANTIZE, out_tflite="model.keras"), "must not replace an input"),
        (_nothing, [*QUANTIZE, "--plan", "absent/plan.json"], "must be writable"),
        (_nothing, [*QUANTIZE, "--preset", "w4a9"], "nearest is 'w4a8'"),
        (_nothing, [*QUANTIZE, "--recipe", "absent.yaml"], "absent.yaml"),
        (_write("r.yaml", b"{"), [*QUANTIZE, "--recipe", "r.yaml"], "valid YAML"),
        (
            _write("r.yaml", b"version: 1\nweight_bit: 4\n"),
            [*QUANTIZE, "--recipe", "r.yaml"],
            "nearest known one is 'weight_bits'",
        ),
        (
            _nothing,
            [*QUANTIZE, "--preset", "paper_w4a4", "--target", "int8_container"],
            "Use --target float_simulated",
        ),
        (
            _nothing,
            [*QUANTIZE, "--target", "float_simulated", "--io", "int8"],
            "float32 input and output",
        ),
        (
            _nothing,
            ["quantize", "model.keras", "--output", "out.tflite"],
            "give --calibration PATH",
        ),
        (
            _write("stats", b"no statistics"),
            [*QUANTIZE, "--statistics", "stats"],
            "'stats' cannot be read",
        ),
        (
            _write("r.yaml", b"version: 1\nmean_correction: weights\n"),
            [*QUANTIZE, "--recipe", "r.yaml", "--target", "int8_container"],
            "weights on the integer grid. Received: a recipe with mean_correction: weights",
        ),
        (
            _write("r.yaml", b"version: 1\nquantized_tensors: layer_inputs\n"),
            [*QUANTIZE, "--recipe", "r.yaml", "--target", "int8_container"],
            "integers between its layers. Received: a recipe with quantized_tensors: layer_inputs",
        ),
        (
            _write("r.yaml", b"version: 1\nactivation_granularity: per_channel\n"),
            [*QUANTIZE, "--recipe", "r.yaml", "--target", "packed_int4"],
            "one scale per activation tensor. Received: a recipe with activations clipped",
        ),
        (
            _nothing,
            ["calibrate", "model.keras", "--calibration", "absent", "--output", "out.tflite"],
            "no file or folder 'absent'",
        ),
        (
            _nothing,
            ["calibrate", "model.keras", "--calibration", "data.npz", "--output", "absent/s"],
            "must be writable",
        ),
        (_nothing, _with(EVALUATE, data_npz="absent"), "no file or folder 'absent'"),
        (_nothing, _with(EVALUATE, first_tflite="absent.tflite"), "absent.tflite"),
        (_nothing, _with(EVALUATE, first_tflite="data.npz"), "must be a .keras file"),
        (_write("m.tflite", b"text"), _with(EVALUATE, first_tflite="m.tflite"), "TFL3"),
        (
            _write("m.tflite", float_dense(np.eye(4))[:200]),
            _with(EVALUATE, first_tflite="m.tflite"),
            "LiteRT must be able to load",
        ),
        (_nothing, _with(EVALUATE, first_tflite="conv.tflite"), "4 x 4 x 3"),
        (_nothing, _with(COMPARE, data_npz="absent"), "no file or folder 'absent'"),
        (_nothing, _with(COMPARE, second_tflite="absent.tflite"), "absent.tflite"),
        (_nothing, _with(COMPARE, first_tflite="absent.keras"), "no file 'absent.keras'"),
        (_nothing, _with(COMPARE, second_tflite="conv.tflite"), "must take the same images"),
        (_nothing, [*COMPARE, "--threshold", "1,2"], "must be one number"),
        (_nothing, [*COMPARE, "--model-explorer", "data.npz"], "'data.npz' is a file"),
        (_nothing, [*COMPARE, "--model-explorer", "/proc/folder"], "must be writable"),
        (
            _nothing,
            [*_with(COMPARE, second_tflite="model.keras"), "--model-explorer", "folder"],
            "Name the .tflite file second",
        ),
        (_nothing, [*QUANTIZE, "--model-explorer", "/proc/folder"], "must be writable"),
        (_nothing, ["inspect", "absent.tflite"], "absent.tflite"),
        (_nothing, ["inspect", "data.npz"], "TFL3"),
        (
            _write("m.tflite", float_dense(np.eye(4))[:200]),
            ["inspect", "m.tflite"],
            "corrupt or cut short",
        ),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2_and_no_output(
    prepare: Callable[[Path], None],
    argv: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(folder)
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert sorted(folder.rglob("*")) == before


class TestOutcome:
    def run(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
        def fail(arguments: object) -> None:
            raise error

        monkeypatch.setattr(cli, "_run", fail)
        return main(["inspect", "x"])

    def test_our_errors_are_printed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, DataError("The images must be there.")) == 2
        assert capsys.readouterr().err == "tflite-ptq4: The images must be there.\n"

    def test_a_bug_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ZeroDivisionError):
            self.run(monkeypatch, ZeroDivisionError())

    def test_an_interrupt_has_its_own_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, KeyboardInterrupt()) == 130
