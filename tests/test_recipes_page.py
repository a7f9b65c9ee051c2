"""The page of recipes has every key with its real default; `test_documentation.py` runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tflite_ptq4 import recipes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.config.schema import keys_of

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
KEYS = {key.name: key for key in keys_of(QuantizationConfig)}
KEYS |= {f"rules: {key.name}": key for key in keys_of(LayerRule)}


def in_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).splitlines()[0]


def section(name: str) -> str:
    (found,) = re.findall(rf"^### `{re.escape(name)}`\n\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    return found


def test_every_key_has_its_section_and_nothing_else_has() -> None:
    assert sorted(re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)) == sorted(["version", *KEYS])


@pytest.mark.parametrize("name", KEYS)
def test_a_section_opens_with_default_and_values(name: str) -> None:
    key = KEYS[name]
    first_line = section(name).splitlines()[0]
    assert first_line == f"Default `{in_yaml(key.default)}`; takes {key.takes}."


@pytest.mark.parametrize("name", [name for name in KEYS if not name.startswith("rules: ")])
def test_a_section_names_its_source_and_when_to_change_it(name: str) -> None:
    text = section(name)
    assert "Source: " in " ".join(text.split())
    assert "\nChange it " in text


def test_other_keys_that_it_names_exist() -> None:
    known = {*KEYS, *(key.name for key in keys_of(LayerRule)), "version"}
    named = {word for word in re.findall(r"`([a-z]+_[a-z_]+)`", PAGE) if word.endswith("_bits")}
    assert named <= known


def preset_table() -> str:
    """The keys in which the presets differ from the defaults, one row each."""
    names = recipes.names()
    configs = [QuantizationConfig.preset(name).to_dict() for name in names]
    default = QuantizationConfig().to_dict()
    header = ["key", "default", *(f"`{name}`" for name in names)]
    rows = [header, ["---"] * len(header)]
    rows += [
        [f"`{key}`", *(in_yaml(values[key]) for values in (default, *configs))]
        for key in default
        if any(values[key] != default[key] for values in configs)
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_table_of_presets_is_the_real_one() -> None:
    assert PAGE.endswith("\n\n" + preset_table())
