"""The schema against the loader: they refuse the same, but for what no schema can say."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tflite_ptq4 import recipes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.config.schema import keys_of, recipe_schema
from tflite_ptq4.errors import ConfigError

SCHEMA = recipe_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def loads(values: Any) -> bool:
    try:
        QuantizationConfig.from_dict(values)
    except ConfigError:
        return False
    return True


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_file_in_the_package_is_the_schema_of_the_fields() -> None:
    """`tflite-ptq4 recipes schema > tflite_ptq4/recipes/recipe.schema.json` writes it anew."""
    text = resources.files(recipes).joinpath(recipes.SCHEMA_FILE).read_text(encoding="utf-8")
    assert text == json.dumps(SCHEMA, indent=2) + "\n"


@pytest.mark.parametrize("name", recipes.names())
def test_it_accepts_the_presets(name: str) -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(recipes.text(name)))) == []
    assert f"# yaml-language-server: $schema={recipes.SCHEMA_FILE}\n" in recipes.text(name)


@pytest.mark.parametrize("record", [QuantizationConfig, LayerRule])
def test_every_key_has_a_meaning(record: type) -> None:
    for key in keys_of(record):
        assert len(key.meaning) > 10 and key.meaning.endswith("."), key.name


REFUSED = [
    {},
    {"version": 2},
    {"version": 1, "weight_bit": 4},
    {"version": 1, "weight_bits": 9},
    {"version": 1, "weight_bits": 3.5},
    {"version": 1, "weight_bits": "4"},
    {"version": 1, "weight_bits": None},
    {"version": 1, "weight_bits": True},
    {"version": 1, "percentile": 49},
    {"version": 1, "effort": "slow"},
    {"version": 1, "refit_weights": 1},
    {"version": 1, "average_weight_bits": 3.5},
    {"version": 1, "average_activation_bits": 3.5, "weight_bit_allocation": "exact"},
    {"version": 1, "weight_bit_allocation": "exact", "weight_granularity": "per_tensor"},
    {"version": 1, "mean_correction": "none", "variance_correction": False},
    {"version": 1, "rules": None},
    {"version": 1, "rules": {"match": "a"}},
    {"version": 1, "rules": ["a"]},
    {"version": 1, "rules": [{"weight_bits": 4}]},
    {"version": 1, "rules": [{"match": None, "layer_type": None}]},
    {"version": 1, "rules": [{"match": ""}]},
    {"version": 1, "rules": [{"match": "a", "quantize": False, "weight_bits": 4}]},
    {"version": 1, "rules": [{"match": "a", "weight_bit": 4}]},
]


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_both_refuse(values: dict) -> None:
    assert not loads(values)
    assert not VALIDATOR.is_valid(values)


ACCEPTED = [
    {"version": 1},
    {"version": 1, "average_weight_bits": None},
    {"version": 1, "average_weight_bits": 3.5, "weight_bit_allocation": "paper"},
    {"version": 1, "weight_granularity": "per_tensor", "weight_bit_allocation": "none"},
    {
        "version": 1,
        "bias_correction": False,
        "mean_correction": "none",
        "variance_correction": False,
    },
    {"version": 1, "first_layer_bits": None, "percentile": 50},
    {"version": 1, "rules": [{"layer_type": "Dense", "quantize": False, "weight_bits": None}]},
    {"version": 1, "rules": [{"match": "a*", "activation_clipping": "mse"}]},
]


@pytest.mark.parametrize("values", ACCEPTED, ids=str)
def test_both_accept(values: dict) -> None:
    assert loads(values)
    assert VALIDATOR.is_valid(values)


BEYOND_A_SCHEMA = [
    {"version": 1, "minimum_bits": 5, "maximum_bits": 4},
    {"version": 1, "weight_bit_allocation": "exact", "minimum_bits": 5},
    {"version": 1, "weight_bits": 4.0},
]


@pytest.mark.parametrize("values", BEYOND_A_SCHEMA, ids=str)
def test_what_the_loader_alone_refuses(values: dict) -> None:
    assert not loads(values)
    assert VALIDATOR.is_valid(values)


def _values_near(schema: dict) -> st.SearchStrategy:
    """Allowed values of a key, their neighbours beyond the bounds, and values of other types."""
    if "$ref" in str(schema):
        return st.lists(_mappings(SCHEMA["$defs"]["LayerRule"]), max_size=2)
    found = [*schema.get("enum", ()), schema["default"], None, True, "other", "none"]
    if "minimum" in schema:
        found += [schema["minimum"], schema["minimum"] - 1, schema["maximum"] + 1, 4, 3.5]
    return st.sampled_from(found)


def _mappings(schema: dict) -> st.SearchStrategy:
    """Mappings that state a few of the keys."""
    keys = {name: part for name, part in schema["properties"].items() if name != "version"}
    return st.lists(st.sampled_from(sorted(keys)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: _values_near(keys[name]) for name in names})
    )


@settings(max_examples=300)
@given(_mappings(SCHEMA))
def test_what_the_schema_refuses_the_loader_refuses_and_the_other_way_round(values: dict) -> None:
    values = {"version": 1, **values}
    if loads(values):
        assert VALIDATOR.is_valid(values)
    elif VALIDATOR.is_valid(values):
        with pytest.raises(ConfigError, match=r"must not exceed|must lie between"):
            QuantizationConfig.from_dict(values)
