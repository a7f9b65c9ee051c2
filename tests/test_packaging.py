from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import tflite_ptq4
from tflite_ptq4 import converters

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
SOURCES = {"tflite_ptq4": ROOT / "tflite_ptq4", "tflite_ptq4.converters": ROOT / "converters"}


def package_folders() -> dict[str, Path]:
    """Dotted name -> folder, for every folder with an __init__.py."""
    return {
        ".".join((top, *init.parent.relative_to(source).parts)): init.parent
        for top, source in SOURCES.items()
        for init in source.rglob("__init__.py")
    }


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())


def test_every_folder_with_python_files_is_a_package() -> None:
    holding = {path.parent for source in SOURCES.values() for path in source.rglob("*.py")}
    assert holding == set(package_folders().values())


def test_every_data_file_goes_into_the_wheel() -> None:
    patterns = SETUPTOOLS["package-data"]
    left_out = [
        str(path.relative_to(ROOT))
        for package, folder in package_folders().items()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in (".py", ".pyc")
        if not any(fnmatchcase(path.name, pattern) for pattern in patterns.get(package, ()))
    ]
    assert left_out == []


def test_every_data_pattern_matches_a_file() -> None:
    folders = package_folders()
    idle = [
        (package, pattern)
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        if not list(folders[package].glob(pattern))
    ]
    assert idle == []


def test_the_installed_package_is_this_source_tree() -> None:
    imported = {module.__name__: module for module in (tflite_ptq4, converters)}
    for name, folder in SOURCES.items():
        assert Path(imported[name].__file__).resolve().parent == folder
