"""The JSON schema of recipes, by which editors complete them, made of the config's fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.checks import expected_of
from tflite_ptq4.config.contradictions import OVERRIDES
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.config.recipe_checks import SCHEMA_VERSION

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """A key of a recipe, or of one of its rules.

    Attributes:
        name: what stands before the colon.
        takes: which values, in words.
        default: the value where it is left out, as the config holds it.
        meaning: what it says, from the docstring of its class, in words of YAML; starts with a
            small letter.
    """

    name: str
    takes: str
    default: Any
    meaning: str


def keys_of(record: type) -> tuple[Key, ...]:
    """The keys that stand for the fields of `QuantizationConfig` or of `LayerRule`, in order."""
    expected, meanings = expected_of(record), dict(_arguments(record))
    return tuple(
        Key(f.name, _in_yaml(expected[f.name]), f.default, _in_yaml(meanings.get(f.name, "")))
        for f in fields(record)
        if f.default is not MISSING
    )


def _in_yaml(text: str) -> str:
    words = {"None": "null", "True": "true", "False": "false", "tuple": "list"}
    return re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], text)


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe, JSON Schema draft 2020-12.

    It refuses what the loader refuses, but for three things that such a schema cannot say: bounds
    that contradict each other or the average between them, whole numbers written with a decimal
    point, and a key that is written twice.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of tflite-ptq4",
        "description": "How a network is quantized; keys that are left out have their defaults.",
        **_object(QuantizationConfig, version={"const": SCHEMA_VERSION}),
        "required": ["version"],
        "allOf": list(_contradictions()),
        "$defs": {LayerRule.__name__: {**_object(LayerRule), **_RULE_CONTRADICTIONS}},
    }


def _object(record: type, **first: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    properties = dict(first)
    for key in keys_of(record):
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        properties[key.name] = {
            **_values(hints[key.name]),
            "default": default,
            "description": key.meaning[:1].upper() + key.meaning[1:],
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _values(hint: Any) -> dict[str, Any]:
    """The values of a field of this type; see `checks`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        values = _values(inner)
        if "enum" in values:
            return {"enum": [*values["enum"], None]}
        return {**values, "type": [values["type"], "null"]}
    if origin is Annotated:
        kind, (low, high) = arguments
        name = {int: "integer", float: "number"}[kind]
        return {"type": name, "minimum": low, "maximum": high}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": {"$ref": f"#/$defs/{arguments[0].__name__}"}}
    return {bool: {"type": "boolean"}, str: {"type": "string", "minLength": 1}}[hint]


def _contradictions() -> Iterator[dict[str, Any]]:
    """What `QuantizationConfig` refuses of values that are each allowed."""
    for kind in ("weight", "activation"):
        allocation = f"{kind}_bit_allocation"
        yield {
            "if": {"properties": {allocation: {"const": "none"}}},
            "then": {"properties": {f"average_{kind}_bits": {"type": "null"}}},
        }
    allocates = {"properties": {"weight_bit_allocation": {"not": {"const": "none"}}}}
    yield {
        "if": {**allocates, "required": ["weight_bit_allocation"]},
        "then": {"properties": {"weight_granularity": {"const": "per_channel"}}},
    }
    corrects_nothing = {"mean_correction": "none", "variance_correction": False}
    stated = {name: {"const": value} for name, value in corrects_nothing.items()}
    yield {
        "if": {"properties": stated, "required": list(stated)},
        "then": {
            "properties": {"bias_correction": {"const": False}},
            "required": ["bias_correction"],
        },
    }


_NAMES_LAYERS = ("match", "layer_type")

# What `LayerRule` refuses of values that are each allowed.
_RULE_CONTRADICTIONS = {
    "anyOf": [
        {"properties": {name: {"type": "string"}}, "required": [name]} for name in _NAMES_LAYERS
    ],
    "if": {"properties": {"quantize": {"const": False}}, "required": ["quantize"]},
    "then": {"properties": {name: {"type": "null"} for name in OVERRIDES}},
}


def _arguments(record: type) -> Iterator[tuple[str, str]]:
    """Name and text of each entry under `Args:` of a docstring."""
    _, _, section = (inspect.getdoc(record) or "").partition("\nArgs:\n")
    for name, text in _ARGUMENT.findall(section.partition("\n\n")[0]):
        yield name, " ".join(text.split())
