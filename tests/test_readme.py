"""What the README lists is there; `test_documentation.py` runs its code."""

from __future__ import annotations

import re
from pathlib import Path

from documented_code import blocks, commands

from tflite_ptq4 import recipes
from tflite_ptq4.cli.arguments import Parser, add_arguments
from tflite_ptq4.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks(ROOT / "README.md")


def texts(language: str) -> list[str]:
    return [block.text for block in BLOCKS if block.language == language]


def listed_files() -> set[str]:
    """The files of the tree at the end, from its indentation."""
    *_, tree = texts("")
    found, folders = set(), []
    for line in tree.splitlines():
        entry, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [entry] if entry.endswith("/") else []
        if not entry.endswith("/"):
            found.add("".join((*folders[:depth], entry)))
    return found


def test_the_example_is_short() -> None:
    example, *_ = texts("python")
    assert len([line for line in example.splitlines() if line]) <= 15


def test_every_command_is_shown() -> None:
    found = [words for block in BLOCKS if block.language == "sh" for words, _ in commands(block)]
    shown = {words[1] for words in found if words[0] == "tflite-ptq4"}
    parser = Parser(prog="tflite-ptq4")
    add_arguments(parser)
    (known,) = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    assert shown == set(known)


def test_the_scripts_are_there() -> None:
    for script in ("demo.sh", "test.sh"):
        assert f"./{script}" in README
        assert (ROOT / script).stat().st_mode & 0o100


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
