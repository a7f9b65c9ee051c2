"""The whole path through the command: a small Keras model on disk to a .tflite that LiteRT runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model, recipes
from tflite_ptq4.cli import main
from tflite_ptq4.file_inspection import inspect_file


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Model(inputs, keras.layers.Dense(4)(x)).save(path)
    return path


@pytest.fixture
def folder(
    tmp_path: Path,
    model_file: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The working directory: model.keras and images.npz."""
    (tmp_path / "model.keras").write_bytes(model_file.read_bytes())
    pixels = rng.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=rng.integers(0, 4, 10))
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = ["--calibration", "images.npz", "--mean", "127", "--std", "64"]
QUANTIZE = ["quantize", "model.keras", "--output", "out.tflite", *IMAGES]


def test_quantize_writes_a_file_and_says_what_it_cost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--plan", "plan.json"]) == 0
    out, err = capsys.readouterr()
    size, float_size = ((folder / name).stat().st_size for name in ("out.tflite", "model.keras"))
    assert f"Wrote out.tflite: {size:,} bytes, target int8_container, float32 input" in out
    assert f"(model.keras: {float_size:,} bytes)" in out
    assert "average bits: " in out
    assert "On the 10 images of images.npz, run in LiteRT: agreement with the float model" in out
    assert "Calibrating: 1 of 1" in err
    assert "Quantizing: " in err
    report = inspect_file((folder / "out.tflite").read_bytes())
    assert report.operators["CONV_2D"] == 2
    assert {weight.type for weight in report.weights} == {"INT8"}
    assert json.loads((folder / "plan.json").read_text())


def test_quantize_writes_a_report_of_what_each_layer_costs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--report", "reports/first"]) == 0
    out, _ = capsys.readouterr()
    assert "Wrote reports/first/report.html" in out
    assert "alone dB" in out
    values = json.loads((folder / "reports/first/report.json").read_text())
    outcome = values["outcome"]
    assert outcome["bytes"] == (folder / "out.tflite").stat().st_size
    assert (outcome["images"], outcome["target"]) == (10, "int8_container")
    assert 0 <= outcome["top1"] <= 1 and 0 <= outcome["float_top1"] <= 1
    assert outcome["seconds"] > 0
    report = values["report"]
    assert report["model"] and report["sensitivity_measured"]
    for row in report["rows"]:
        if row["weights"]:
            assert row["sensitivity"]["weights"] > 0 and row["sensitivity"]["sqnr_db"] > 0
            assert row["weight_values"] and row["output_values"]
    page = (folder / "reports/first/report.html").read_text()
    assert report["worst"][0]["layer"] in page


def test_the_report_draws_the_accuracy_over_the_bits_that_were_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    held_out = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "held_out.npz", x=held_out, y=rng.integers(0, 4, 12))
    curve = ["--report", "report", "--data", "held_out.npz", "--accuracy-over-bits", "3,8"]
    assert main([*QUANTIZE, "--effort", "fast", *curve, "--json"]) == 0
    out = capsys.readouterr().out
    comparison = json.loads(out[out.index("{") :])["comparison"]
    assert comparison["images"] == 12
    (own, top1, name), *others = comparison["accuracy_over_bits"]
    assert (name, top1) == ("out.tflite", comparison["top1"])
    assert [name for _, _, name in others] == ["3 bits", "8 bits"]
    # The first and the last layer have 8 bits, so that an average lies above what was asked for.
    assert 3 < others[0][0] < own < others[1][0] == 8
    assert all(0 <= accuracy <= 1 for _, accuracy, _ in others)
    outcome = json.loads((folder / "report/report.json").read_text())["outcome"]
    assert outcome["accuracy_over_bits"] == comparison["accuracy_over_bits"]
    assert "Accuracy over average bits of a weight" in (folder / "report/report.html").read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--accuracy-over-bits", "4"], "give --report DIR"),
        (["--report", "r", "--accuracy-over-bits", "1"], "must be numbers from 2 to 8, got '1'"),
        (
            ["--report", "r", "--accuracy-over-bits", "4", "--data", "plain.npy"],
            "must have images with labels. Received: plain.npy. Give them with --data.",
        ),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    np.save(folder / "plain.npy", np.zeros((2, 8, 8, 3), np.float32))
    assert main([*QUANTIZE, *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "out.tflite").exists()


def test_the_folder_of_a_report_is_checked_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--report", "images.npz"]) == 2
    assert "must be a folder, but 'images.npz' is a file" in capsys.readouterr().err
    assert not (folder / "out.tflite").exists()


def test_quantize_gives_json_and_the_same_bytes_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--io", "int8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    first = (folder / "out.tflite").read_bytes()
    assert (result["bytes"], result["target"], result["io"]) == (
        len(first),
        "int8_container",
        "int8",
    )
    assert result["float_model_bytes"] == (folder / "model.keras").stat().st_size
    assert result["comparison"]["images"] == 10
    assert 0 <= result["comparison"]["agreement"] <= 1
    assert inspect_file(first).activations[0].type == "INT8"
    assert main([*QUANTIZE, "--io", "int8", "--json"]) == 0
    assert (folder / "out.tflite").read_bytes() == first


def test_saved_statistics_stand_in_for_the_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "model.keras", "--output", "stats.npz", *IMAGES]) == 0
    assert "over 10 images" in capsys.readouterr().out
    assert main([*QUANTIZE, "--preset", "w8a8"]) == 0
    from_images = (folder / "out.tflite").read_bytes()
    saved = ["--preset", "w8a8", "--statistics", "stats.npz"]
    assert main([*QUANTIZE, *saved]) == 0
    assert (folder / "out.tflite").read_bytes() == from_images
    capsys.readouterr()
    assert main(["quantize", "model.keras", "--output", "out.tflite", *saved]) == 0
    out, err = capsys.readouterr()
    assert "was not compared with the float model" in out
    assert "left out: output_matching. The bias correction takes their place." in err


def test_nothing_is_said_to_be_left_out_that_the_recipe_does_not_have(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "model.keras", "--output", "stats.npz", *IMAGES]) == 0
    (folder / "mine.yaml").write_text("version: 1\nweight_bits: 5\n", encoding="utf-8")
    argv = ["quantize", "model.keras", "--output", "out.tflite", "--statistics", "stats.npz"]
    assert main([*argv, "--recipe", "mine.yaml", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out[out.index("{") :])["comparison"] is None
    assert "left out" not in err


@pytest.mark.parametrize("effort", ["fast", "balanced", "best"])
def test_the_effort_is_the_files(
    effort: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--effort", effort]) == 0
    capsys.readouterr()
    facts = inspect_file(Path("out.tflite").read_bytes()).metadata["tflite_ptq4"]
    assert facts["config"] == QuantizationConfig.preset("w4a8", effort=effort).to_dict()


@pytest.mark.parametrize(
    ("preset", "target"),
    [
        *((preset, "float_simulated") for preset in recipes.names()),
        *((preset, "int8_container") for preset in recipes.names() if preset[0] == "w"),
    ],
)
def test_every_preset_gives_each_of_its_targets(
    preset: str, target: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--preset", preset, "--target", target, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["target"] == target
    assert not [row for row in result["report"]["rows"] if not row["quantized"]]
    # A tiny network, so few answers are clear-cut; noise as strong as the signal is 0 dB.
    assert result["comparison"]["sqnr_db"] > 5


def test_evaluate_mixes_keras_and_tflite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUANTIZE, "--preset", "w8a8"]) == 0
    capsys.readouterr()
    data = ["--data", "images.npz", "--mean", "127", "--std", "64", "--json"]
    assert main(["evaluate", "model.keras", "out.tflite", *data]) == 0
    keras_row, tflite_row = json.loads(capsys.readouterr().out)["models"]
    assert keras_row["agreement"] == 1
    # Eight bits everywhere: half a step of 256 on each tensor, far from 20 dB.
    assert tflite_row["sqnr_db"] > 20


def test_calibrate_gives_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "model.keras", "--output", "s.npz", *IMAGES, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["bytes"]) == (10, (folder / "s.npz").stat().st_size)


def _of_any_size() -> keras.Model:
    inputs = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def _input_of(path: str) -> dict:
    (detail,) = Interpreter(model_path=path).get_input_details()
    return detail


@pytest.mark.parametrize(
    ("options", "size", "sentence"),
    [
        ([], [8, 8], "On the 10 images of images.npz, run in LiteRT: agreement"),
        (["--input-size", "8", "8"], [8, 8], "On the 10 images of images.npz, run in LiteRT"),
        (["--input-size", "6", "9"], [6, 9], "The images have another size than the file's input"),
    ],
)
def test_a_model_of_any_size_gets_that_of_the_images_or_the_one_asked_for(
    options: list[str],
    size: list[int],
    sentence: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _of_any_size().save(folder / "model.keras")
    assert main([*QUANTIZE, *options]) == 0
    assert sentence in capsys.readouterr().out
    assert _input_of("out.tflite")["shape"].tolist() == [1, *size, 3]


def test_statistics_alone_do_not_tell_the_size(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _of_any_size().save(folder / "model.keras")
    assert main(["calibrate", "model.keras", "--output", "stats.npz", *IMAGES]) == 0
    argv = ["quantize", "model.keras", "--statistics", "stats.npz", "--output", "out.tflite"]
    capsys.readouterr()
    assert main(argv) == 2
    assert "input 'image' of any x any x 3, and no images" in capsys.readouterr().err
    assert main([*argv, "--input-size", "8", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_shapes"] == {"image": [8, 8, 3]}


def test_a_dynamic_batch_is_there_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, batch in (([], 1), (["--dynamic-batch"], -1)):
        assert main([*QUANTIZE, *options, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["dynamic_batch"] == (batch == -1)
        assert _input_of("out.tflite")["shape_signature"].tolist() == [batch, 8, 8, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-size", "9", "9"], "8 x 8 x 3. Received: 9 x 9 x 3. Leave the fixed sides"),
        (["--dynamic-batch"], "Layer 'up' (Conv2DTranspose) must treat every image"),
    ],
)
def test_a_file_that_cannot_be_is_a_sentence_and_no_output(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = keras.Input((8, 8, 3))
    up = keras.layers.Conv2DTranspose(3, 2, strides=2, name="up")
    keras.Model(inputs, up(inputs)).save(folder / "model.keras")
    assert main([*QUANTIZE, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not (folder / "out.tflite").exists()


@pytest.fixture
def two_inputs(folder: Path, rng: np.random.Generator) -> Path:
    """In place of the model one of an image and a vector, and two.npz for it."""
    view, pose = keras.Input((None, None, 3), name="view"), keras.Input((5,), name="pose")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(view))
    both = keras.layers.Concatenate()([mean, keras.layers.Dense(6)(pose)])
    keras.Model({"view": view, "pose": pose}, keras.layers.Dense(4)(both)).save("model.keras")
    arrays = {"pose": rng.normal(size=(10, 5)), "view": rng.normal(size=(10, 8, 6, 3))}
    np.savez(folder / "two.npz", **arrays, y=rng.integers(0, 4, 10))
    return folder


TWO = ["--calibration", "two.npz"]


def test_a_model_of_several_inputs_takes_an_array_for_each(
    two_inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["quantize", "model.keras", "--output", "out.tflite"]
    assert main([*argv, *TWO, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["comparison"]["images"] == 10
    assert result["comparison"]["sqnr_db"] > 10
    assert result["input_shapes"] == {"pose": [5], "view": [8, 6, 3]}
    in_one_go = (two_inputs / "out.tflite").read_bytes()
    arrays = dict(np.load("two.npz"))
    images = {name: arrays[name] for name in ("view", "pose")}
    model = keras.saving.load_model("model.keras")
    config = QuantizationConfig.preset("w4a8")
    ours = quantize_model(model, calibrate(model, images), config, images=images)
    assert in_one_go == ours.to_tflite()
    assert main(["calibrate", "model.keras", "--output", "stats.npz", *TWO]) == 0
    assert main([*argv, *TWO, "--statistics", "stats.npz"]) == 0
    assert (two_inputs / "out.tflite").read_bytes() == in_one_go
    assert main([*argv, *TWO, "--input-size", "9", "9"]) == 0
    assert "The images have another size" in capsys.readouterr().out


def test_evaluate_takes_an_array_for_each_input(
    two_inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", "out.tflite", "--preset", "w8a8", "--io", "int8"]
    assert main(["quantize", "model.keras", *options, *TWO]) == 0
    capsys.readouterr()
    assert main(["evaluate", "out.tflite", "model.keras", "--data", "two.npz", "--json"]) == 0
    _, second = json.loads(capsys.readouterr().out)["models"]
    assert second["sqnr_db"] > 20
    arrays = dict(np.load("two.npz"))
    answers = keras.saving.load_model("model.keras").predict(
        {name: arrays[name] for name in ("view", "pose")}, verbose=0
    )
    assert second["top1"] == np.mean(answers.argmax(axis=-1) == arrays["y"])


def _without_pose(folder: Path) -> None:
    np.savez("two.npz", view=np.ones((2, 8, 8, 3)))


def _of_other_lengths(folder: Path) -> None:
    np.savez("two.npz", view=np.ones((2, 8, 8, 3)), pose=np.ones((3, 5)))


@pytest.mark.parametrize(
    ("prepare", "argv", "message"),
    [
        (lambda folder: None, ["images.npz"], "input of the network (pose, view)"),
        (_without_pose, ["two.npz"], "It holds: view."),
        (_of_other_lengths, ["two.npz"], "3 for 'pose', 2 for 'view'"),
        (lambda folder: _pictures(folder), ["pictures"], "has 2 (pose, view)"),
        (
            lambda folder: None,
            ["two.npz", "--mean", "1"],
            "Received: --mean for 'pose' (5), 'view' (",
        ),
        (lambda folder: None, ["two.npz", "--std", "1,2,3", "--crop", "4"], "--crop, --std for"),
    ],
    ids=["keys of one input", "missing", "lengths", "folder", "mean", "std and crop"],
)
@pytest.mark.parametrize("command", ["quantize", "calibrate", "evaluate"])
def test_images_that_do_not_fit_several_inputs_are_a_sentence(
    command: str,
    prepare: Callable[[Path], None],
    argv: list[str],
    message: str,
    two_inputs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(two_inputs)
    options = ["--data"] if command == "evaluate" else ["--output", "out", "--calibration"]
    assert main([command, "model.keras", *options, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (two_inputs / "out").exists()


@pytest.fixture
def sound(folder: Path, rng: np.random.Generator) -> np.ndarray:
    """In place of the model one of frames of sound, and frames for it."""
    frames = keras.Input((20, 4), name="frames")
    x = keras.layers.Conv1D(6, 3, padding="causal", activation="relu")(frames)
    keras.Model(frames, keras.layers.Dense(4)(keras.layers.Flatten()(x))).save("model.keras")
    return rng.normal(size=(10, 20, 4))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "frames.npz"])
def test_a_model_of_sound_takes_an_array(
    name: str, folder: Path, sound: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    key, suffix = name.split(".")
    if suffix == "npy":
        np.save(name, sound)
    else:
        np.savez(name, **{key: sound}, y=np.arange(10) % 4)
    argv = ["quantize", "model.keras", "--output", "out.tflite", "--calibration", name]
    assert main(argv) == 0
    assert "On the 10 images" in capsys.readouterr().out
    assert main(["evaluate", "model.keras", "out.tflite", "--data", name, "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models[1]["sqnr_db"] > 15
    assert (models[0]["top1"] is None) == (suffix == "npy")


@pytest.mark.parametrize(
    ("prepare", "argv", "message"),
    [
        (lambda x: np.save("x.npy", x[:, :9]), ["x.npy"], "20 x 4 per image. Received: 9 x 4"),
        (lambda x: np.savez("x.npz", sound=x), ["x.npz"], "network (frames), and may hold labels"),
        (lambda x: np.save("x.npy", x), ["x.npy", "--std", "2"], "--std for 'frames' (20 x 4)"),
        (lambda x: _pictures(Path()), ["pictures"], "'frames' takes 20 x 4. Received: 'pictures'"),
    ],
    ids=["length", "key", "preparation", "folder"],
)
def test_what_a_model_of_sound_cannot_take_is_a_sentence(
    prepare: Callable[[np.ndarray], None],
    argv: list[str],
    message: str,
    sound: np.ndarray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(sound)
    options = ["quantize", "model.keras", "--output", "out.tflite", "--calibration"]
    assert main([*options, *argv]) == 2
    assert message in capsys.readouterr().err


def test_numbers_in_file_names_need_not_be_labels(
    folder: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has 4 classes, and photographs are named by date."""
    (folder / "photos").mkdir()
    for day in range(3):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"2026010{day}_walk.png")
    argv = ["quantize", "model.keras", "--output", "out.tflite", "--calibration", "photos"]
    assert main([*argv, "--mean", "127", "--std", "64"]) == 0
    out, err = capsys.readouterr()
    assert "labels of photos are not used: they go up to 20260102, and the model has the" in err
    assert "On the 3 images of photos" in out
    assert main(["evaluate", "out.tflite", "--data", "photos"]) == 2
    assert "Labels must be classes of the network, 0 to 3." in capsys.readouterr().err


def test_a_model_of_no_classes_is_compared_on_labelled_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)).save("model.keras")
    assert main([*QUANTIZE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["top1"] is None
    assert main(["evaluate", "model.keras", "out.tflite", "--data", "images.npz"]) == 0
    assert "outputs are no classes, so there is no accuracy" in capsys.readouterr().err


def test_outputs_by_name_are_compared_in_their_order_in_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keras sorts the names: the first output is the box, though the classes were given first."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
    outputs = {"classes": keras.layers.Dense(3)(x), "box": keras.layers.Dense(4)(x)}
    keras.Model(inputs, outputs).save("model.keras")
    assert main([*QUANTIZE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["sqnr_db"] > 15


def test_models_that_take_other_inputs_are_not_compared(
    two_inputs: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "model.keras", str(model_file), "--data", "two.npz"]) == 2
    message = "'model.keras' takes 'pose' of 5, 'view' of any x any x 3, "
    assert message in capsys.readouterr().err


def _save(name: str, model: Callable[[], keras.Model]) -> Callable[[Path], None]:
    return lambda folder: model().save(folder / name)


def _unsupported() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.UnitNormalization()])


def _lambda() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x + 1)])


def _damaged(folder: Path) -> None:
    content = bytearray((folder / "model.keras").read_bytes())
    content[500:4500] = bytes(4000)
    (folder / "model.keras").write_bytes(content)


def _nan_weights(folder: Path) -> None:
    model = keras.saving.load_model(folder / "model.keras")
    weights = model.get_weights()
    weights[0][0, 0, 0, 0] = np.nan
    model.set_weights(weights)
    model.save(folder / "model.keras")


def _pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "pictures" / f"{name}.png")


def _broken_picture(folder: Path) -> None:
    _pictures(folder)
    (folder / "pictures" / "b.png").write_bytes(b"broken")


def _nan(folder: Path) -> None:
    np.savez(folder / "images.npz", x=np.full((2, 8, 8, 3), np.nan))


def _wrong_shape(folder: Path) -> None:
    np.savez(folder / "images.npz", x=np.zeros((2, 9, 9, 3)))


def _empty_folder(folder: Path) -> None:
    (folder / "pictures").mkdir()


@pytest.mark.parametrize(
    ("prepare", "path", "message"),
    [
        (_save("model.keras", _unsupported), "images.npz", "layer"),
        (_save("model.keras", _lambda), "images.npz", "Lambda layer"),
        (_damaged, "images.npz", "not a whole Keras model"),
        (_nan_weights, "images.npz", "NaN"),
        (_empty_folder, "pictures", "must hold images"),
        (_broken_picture, "pictures", "b.png"),
        (_wrong_shape, "images.npz", "9 x 9 x 3"),
        (_nan, "images.npz", "must be finite"),
    ],
    ids=[
        "unsupported",
        "lambda",
        "damaged",
        "nan weights",
        "empty folder",
        "broken picture",
        "wrong shape",
        "nan",
    ],
)
@pytest.mark.parametrize("command", ["quantize", "calibrate"])
def test_bad_input_is_a_sentence_and_exit_code_2_and_no_output(
    command: str,
    prepare: Callable[[Path], None],
    path: str,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(folder)
    argv = [command, "model.keras", "--calibration", path, "--output", "out"]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (folder / "out").exists()
