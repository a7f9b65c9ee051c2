"""Everything that is wrong with a recipe, each with the line that it stands in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tflite_ptq4 import recipes
from tflite_ptq4.config.checks import problems
from tflite_ptq4.config.contradictions import OF_CONFIGS
from tflite_ptq4.config.layer_rules import rule_problems
from tflite_ptq4.errors import ConfigError

SCHEMA_VERSION = 1


def recipe_problems(values: Any, config: type) -> list[ConfigError]:
    """Everything that is wrong with a parsed recipe: version, keys, their values, its rules.

    Args:
        values: what should be a mapping of fields to values.
        config: the class that the recipe is for, `QuantizationConfig`.
    """
    if not isinstance(values, Mapping):
        return [
            ConfigError(
                f"A config must be a mapping of fields to values. Received: {values!r}. "
                "Start from `QuantizationConfig().to_yaml()`."
            )
        ]
    found = []
    version = values.get("version")
    if type(version) is not int or version != SCHEMA_VERSION:
        found.append(
            ConfigError(
                f"A config must state the schema it is written in, `version: {SCHEMA_VERSION}`. "
                f"Received: {version!r}. Add the line, or update this package for a newer file.",
                key=("version",),
            )
        )
    if "rules" in values:
        found += rule_problems(values["rules"])
    own = {key: value for key, value in values.items() if key not in ("version", "rules")}
    return found + problems(own, config, OF_CONFIGS)


def file_problems(source: str | os.PathLike[str], config: type) -> list[ConfigError]:
    """Everything that is wrong with the text or file of a recipe, from top to bottom.

    Args:
        source: as `recipes.read` takes it.
        config: as for `recipe_problems`.
    """
    try:
        recipe = recipes.read(source)
    except ConfigError as error:
        return [error]
    found = [*recipe.repeated_keys, *recipe_problems(recipe.values, config)]
    return [
        ConfigError(f"{recipe.place(error.key)}{error}", error.key)
        for error in sorted(found, key=lambda error: recipe.line(error.key) or 0)
    ]
