"""`tflite-ptq4 recipes`: the shipped recipes, their schema, and checks of the user's own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from tflite_ptq4 import recipes
from tflite_ptq4.cli.console import message, print_json, print_table
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.description import describe
from tflite_ptq4.config.recipe_checks import file_problems
from tflite_ptq4.config.schema import recipe_schema


def run(arguments: argparse.Namespace) -> None:
    """Run one of the sub-commands."""
    _ACTIONS[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    """Print the presets with what each means."""
    found = {name: recipes.summary(name) for name in recipes.names()}
    if arguments.json:
        print_json({"recipes": found})
    else:
        print_table("recipes", ("name", "what it means"), list(found.items()))


def _show(arguments: argparse.Namespace) -> None:
    """Print a preset, as a file to start from."""
    config = QuantizationConfig.preset(arguments.name)
    if arguments.json:
        print_json(config.to_dict())
    else:
        print(recipes.text(arguments.name), end="")


def _validate(arguments: argparse.Namespace) -> None:
    """Print what each file means; of one that is refused, all that is wrong, and where."""
    problems = {path: file_problems(path, QuantizationConfig) for path in arguments.files}
    meanings = {
        str(path): None if found else describe(QuantizationConfig.from_yaml(path))
        for path, found in problems.items()
    }
    if arguments.json:
        print_json(
            {
                "files": meanings,
                "problems": {
                    str(path): [str(e) for e in found] for path, found in problems.items()
                },
            }
        )
    else:
        for path, meaning in meanings.items():
            if meaning is not None:
                print(f"{path}: valid: {meaning}")
    errors = [error for found in problems.values() for error in found]
    for error in errors[:-1]:
        message(f"tflite-ptq4: {error}")
    if errors:
        raise errors[-1]


def _schema(arguments: argparse.Namespace) -> None:
    """Print the JSON schema."""
    print(json.dumps(recipe_schema(), indent=2))


_ACTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "list": _list,
    "show": _show,
    "validate": _validate,
    "schema": _schema,
}
