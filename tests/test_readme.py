"""What the README shows is run, parsed, or looked up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tflite_ptq4 import recipes
from tflite_ptq4.cli.arguments import Parser, add_arguments
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def listed_files() -> set[str]:
    """The files of the tree at the end, from its indentation."""
    *_, tree = blocks("")
    found, folders = set(), []
    for line in tree.splitlines():
        entry, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [entry] if entry.endswith("/") else []
        if not entry.endswith("/"):
            found.add("".join((*folders[:depth], entry)))
    return found


def test_the_example_runs(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    example, _ = blocks("python")
    assert len([line for line in example.splitlines() if line]) <= 15
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((6, 6, 3)), *layers, keras.layers.Dense(3)])
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    np.save("images.npy", rng.normal(size=(8, 6, 6, 3)).astype(np.float32))
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["outputs"].shape == (8, 3)
    assert (tmp_path / "model.tflite").read_bytes() == names["quantized"].to_tflite()


def test_the_commands_parse() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("tflite-ptq4 ")]
    assert len({line.split()[1] for line in commands}) == 6
    parser = Parser(prog="tflite-ptq4")
    add_arguments(parser)
    for line in commands:
        parser.parse_args(shlex.split(line)[1:])


def test_the_scripts_are_there() -> None:
    for script in ("demo.sh", "test.sh"):
        assert f"./{script}" in README
        assert (ROOT / script).stat().st_mode & 0o100


def test_the_recipe_is_one() -> None:
    (recipe,) = blocks("yaml")
    assert len(QuantizationConfig.from_yaml(recipe).rules) == 2


def test_every_preset_and_target_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)`", README, re.MULTILINE))
    assert rows == {*recipes.names(), *TARGETS}


def test_the_tree_lists_every_module_and_nothing_else() -> None:
    folders = ("tflite_ptq4", "converters", "examples")
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    listed = {name for name in listed_files() if name.startswith(folders)}
    assert listed == modules
