from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.description import describe
from tflite_ptq4.config.layer_rules import LayerRule, LayerSettings
from tflite_ptq4.errors import ConfigError

BITS = st.integers(2, 8)
CLIPPINGS = st.sampled_from(["auto", "laplace", "gaussian", "min_max", "percentile", "mse"])
# Surrogates have no UTF-8 form, so no file can hold them.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def layer_rules(draw: st.DrawFn) -> LayerRule:
    match, layer_type = draw(
        st.tuples(st.none() | NAMES, st.none() | NAMES).filter(lambda pair: pair != (None, None))
    )
    if draw(st.booleans()):
        return LayerRule(match=match, layer_type=layer_type, quantize=False)
    return LayerRule(
        match=match,
        layer_type=layer_type,
        weight_bits=draw(st.none() | BITS),
        activation_bits=draw(st.none() | BITS),
        activation_clipping=draw(st.none() | CLIPPINGS),
    )


@st.composite
def configs(draw: st.DrawFn) -> QuantizationConfig:
    minimum, maximum = sorted([draw(st.integers(0, 8)), draw(st.integers(0, 8))])
    average = st.floats(minimum, maximum) | st.integers(minimum, maximum)
    methods = ["none", "paper", "exact"]
    measured = ["measured"] if minimum >= 2 else []
    weight_allocation = draw(st.sampled_from([*methods, *measured]))
    activation_allocation = draw(st.sampled_from(methods))
    bias_correction, variance_correction = draw(st.booleans()), draw(st.booleans())
    means = ["bias", "roundings", "weights"] + ["none"] * (
        variance_correction or not bias_correction
    )
    return QuantizationConfig(
        weight_bits=draw(BITS),
        activation_bits=draw(BITS),
        average_weight_bits=None if weight_allocation == "none" else draw(average),
        average_activation_bits=None if activation_allocation == "none" else draw(average),
        weight_granularity=(
            draw(st.sampled_from(["per_channel", "per_tensor"]))
            if weight_allocation == "none"
            else "per_channel"
        ),
        activation_granularity=draw(st.sampled_from(["per_channel", "per_tensor"])),
        quantized_tensors=draw(st.sampled_from(["all", "layer_inputs"])),
        weight_scale=draw(st.sampled_from(["squared_error", "max_abs", "laplace", "gaussian"])),
        activation_clipping=draw(CLIPPINGS),
        effort=draw(st.sampled_from(["fast", "balanced", "best"])),
        clipping_error=draw(st.sampled_from(["readers", "tensor"])),
        percentile=draw(st.floats(50, 100)),
        weight_bit_allocation=weight_allocation,
        activation_bit_allocation=activation_allocation,
        minimum_bits=minimum,
        maximum_bits=maximum,
        bias_correction=bias_correction,
        mean_correction=draw(st.sampled_from(means)),
        variance_correction=variance_correction,
        weight_rounding=draw(st.sampled_from(["second_order", "nearest"])),
        refit_weights=draw(st.booleans()),
        output_matching=draw(st.booleans()),
        varied_images=draw(st.booleans()),
        first_layer_bits=draw(st.none() | BITS),
        last_layer_bits=draw(st.none() | BITS),
        depthwise_weight_bits=draw(st.none() | BITS),
        weight_bit_budget=draw(st.none() | st.floats(0, 8)),
        activation_bit_budget=draw(st.none() | st.floats(0, 8)),
        input_bits=draw(BITS),
        output_bits=draw(BITS),
        signed_activation_bits=draw(st.none() | BITS),
        rules=tuple(draw(st.lists(layer_rules(), max_size=3))),
    )


class TestRoundTrip:
    @given(configs())
    def test_dict_and_back_is_the_identity(self, config: QuantizationConfig) -> None:
        values = config.to_dict()
        assert QuantizationConfig.from_dict(values) == config
        assert QuantizationConfig.from_dict(values).to_dict() == values

    @given(configs())
    def test_yaml_and_back_is_the_identity(self, config: QuantizationConfig) -> None:
        text = config.to_yaml()
        assert QuantizationConfig.from_yaml(text) == config
        assert QuantizationConfig.from_yaml(text).to_yaml() == text

    @given(configs())
    def test_equal_configs_hash_equally_and_describe_themselves_in_one_line(
        self, config: QuantizationConfig
    ) -> None:
        assert hash(QuantizationConfig.from_dict(config.to_dict())) == hash(config)
        assert "\n" not in describe(config)

    def test_the_dict_states_the_version_and_every_field(self) -> None:
        assert list(QuantizationConfig().to_dict()) == [
            "version",
            *(field.name for field in dataclasses.fields(QuantizationConfig)),
        ]

    def test_the_dict_shares_nothing_with_the_config(self) -> None:
        config = QuantizationConfig(rules=(LayerRule(match="a"),))
        config.to_dict()["rules"].clear()
        assert len(config.rules) == 1

    def test_from_dict_leaves_its_argument_as_it_was(self) -> None:
        values = {"version": 1, "rules": [{"match": "a"}]}
        QuantizationConfig.from_dict(values)
        assert values == {"version": 1, "rules": [{"match": "a"}]}

    def test_keys_left_out_have_their_defaults(self) -> None:
        assert QuantizationConfig.from_yaml("version: 1") == QuantizationConfig()

    @pytest.mark.parametrize("convert", [Path, str])
    def test_a_file_is_read_by_path_or_by_name(self, tmp_path: Path, convert: Any) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("version: 1\nweight_bits: 3\n", encoding="utf-8")
        assert QuantizationConfig.from_yaml(convert(path)) == QuantizationConfig(weight_bits=3)


CHOICES = {
    "weight_granularity": "'per_channel', 'per_tensor'",
    "activation_granularity": "'per_channel', 'per_tensor'",
    "quantized_tensors": "'all', 'layer_inputs'",
    "weight_scale": "'squared_error', 'max_abs', 'laplace', 'gaussian'",
    "activation_clipping": "'auto', 'laplace', 'gaussian', 'min_max', 'percentile', 'mse'",
    "clipping_error": "'readers', 'tensor'",
    "effort": "'fast', 'balanced', 'best'",
    "weight_bit_allocation": "'none', 'paper', 'exact', 'measured'",
    "activation_bit_allocation": "'none', 'paper', 'exact'",
    "mean_correction": "'bias', 'roundings', 'weights', 'none'",
    "weight_rounding": "'second_order', 'nearest'",
}
SWITCHES = (
    "bias_correction",
    "variance_correction",
    "refit_weights",
    "output_matching",
    "varied_images",
)
WIDTHS = {
    "weight_bits": "an integer from 2 to 8",
    "activation_bits": "an integer from 2 to 8",
    "input_bits": "an integer from 2 to 8",
    "output_bits": "an integer from 2 to 8",
    "minimum_bits": "an integer from 0 to 8",
    "maximum_bits": "an integer from 0 to 8",
    "first_layer_bits": "an integer from 2 to 8, or None",
    "last_layer_bits": "an integer from 2 to 8, or None",
    "depthwise_weight_bits": "an integer from 2 to 8, or None",
    "signed_activation_bits": "an integer from 2 to 8, or None",
}
NUMBERS = {
    "percentile": "a number from 50 to 100",
    "average_weight_bits": "a number from 0 to 8, or None",
    "weight_bit_budget": "a number from 0 to 8, or None",
    "activation_bit_budget": "a number from 0 to 8, or None",
    "average_activation_bits": "a number from 0 to 8, or None",
}


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        QuantizationConfig(**fields)
    return str(caught.value)


class TestRefusedValues:
    def test_the_tables_of_this_test_name_every_field(self) -> None:
        named = {*CHOICES, *SWITCHES, *WIDTHS, *NUMBERS, "rules"}
        assert named == {field.name for field in dataclasses.fields(QuantizationConfig)}

    @pytest.mark.parametrize("value", [-1, 9, 4.0, True, "4", np.int64(4), [4]], ids=repr)
    @pytest.mark.parametrize("name", WIDTHS)
    def test_bits(self, name: str, value: Any) -> None:
        expected = f"`{name}` of QuantizationConfig must be {WIDTHS[name]}. Received: {value!r}."
        assert refusal(**{name: value}) == expected

    @pytest.mark.parametrize("name", [n for n, words in WIDTHS.items() if "from 2" in words])
    def test_a_tensor_has_at_least_two_bits(self, name: str) -> None:
        assert refusal(**{name: 1}).endswith("Received: 1.")

    @pytest.mark.parametrize("value", [-0.5, 100.5, float("nan"), float("inf"), True, "4"])
    @pytest.mark.parametrize("name", NUMBERS)
    def test_numbers(self, name: str, value: Any) -> None:
        expected = f"`{name}` of QuantizationConfig must be {NUMBERS[name]}. Received: {value!r}."
        assert refusal(**{name: value}) == expected

    @pytest.mark.parametrize("value", ["Laplace", "", None, 4, ["auto"], np.zeros(2)], ids=repr)
    @pytest.mark.parametrize("name", CHOICES)
    def test_choices(self, name: str, value: Any) -> None:
        expected = f"must be one of {CHOICES[name]}. Received: {value!r}."
        assert refusal(**{name: value}) == f"`{name}` of QuantizationConfig {expected}"

    @pytest.mark.parametrize("value", [0, 1, "true", None], ids=repr)
    @pytest.mark.parametrize("name", SWITCHES)
    def test_switches(self, name: str, value: Any) -> None:
        expected = f"`{name}` of QuantizationConfig must be True or False. Received: {value!r}."
        assert refusal(**{name: value}) == expected

    @pytest.mark.parametrize("value", [[], None, ("conv",), LayerRule(match="a")], ids=repr)
    def test_rules(self, value: Any) -> None:
        expected = f"must be a tuple of LayerRule. Received: {value!r}."
        assert refusal(rules=value) == f"`rules` of QuantizationConfig {expected}"

    def test_fields_are_given_by_name_and_stay(self) -> None:
        with pytest.raises(TypeError):
            QuantizationConfig(4)  # type: ignore[misc]
        with pytest.raises(dataclasses.FrozenInstanceError):
            QuantizationConfig().weight_bits = 8  # type: ignore[misc]


class TestRefusedCombinations:
    def test_bounds_the_wrong_way_round(self) -> None:
        assert refusal(minimum_bits=5, maximum_bits=4) == (
            "`minimum_bits` must not exceed `maximum_bits`. Received: 5 and 4. Swap them."
        )

    @pytest.mark.parametrize("kind", ["weight", "activation"])
    def test_an_average_without_an_allocation(self, kind: str) -> None:
        assert refusal(**{f"average_{kind}_bits": 3.5}) == (
            f"`average_{kind}_bits` must go with a `{kind}_bit_allocation`. Received: 3.5 with "
            f"'none'. Set the allocation to 'exact', or use `{kind}_bits`."
        )

    @pytest.mark.parametrize("kind", ["weight", "activation"])
    @pytest.mark.parametrize("prefix", ["", "average_"])
    def test_an_average_outside_the_bounds(self, kind: str, prefix: str) -> None:
        fields = {f"{prefix}{kind}_bits": 4, f"{kind}_bit_allocation": "exact", "minimum_bits": 5}
        assert refusal(**fields) == (
            f"`{prefix}{kind}_bits`, which `{kind}_bit_allocation` meets on average, must lie "
            "between `minimum_bits` and `maximum_bits`. Received: 4, not in [5, 8]. "
            "Change it, or widen the bounds."
        )

    def test_bits_per_channel_with_one_scale_per_tensor(self) -> None:
        assert refusal(weight_bit_allocation="exact", weight_granularity="per_tensor") == (
            "`weight_bit_allocation` gives each channel its own bits and must have "
            "`weight_granularity='per_channel'`. Received: 'per_tensor'. Change one of the two."
        )

    def test_a_bias_correction_that_corrects_nothing(self) -> None:
        assert refusal(mean_correction="none", variance_correction=False) == (
            "`bias_correction` must correct something. Received: `mean_correction='none'` and "
            "`variance_correction=False`. Set `bias_correction=False`, or one of the two."
        )


class TestRefusedRules:
    def test_a_rule_that_names_no_layer(self) -> None:
        with pytest.raises(ConfigError) as caught:
            LayerRule(weight_bits=8)
        assert str(caught.value) == (
            "A LayerRule must name its layers. Received: neither `match` nor `layer_type`. "
            "Give one of them, or change the config's own fields to mean every layer."
        )

    @pytest.mark.parametrize(
        "override", [{"weight_bits": 8}, {"activation_bits": 8}, {"activation_clipping": "mse"}]
    )
    def test_a_float_rule_that_sets_something(self, override: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            LayerRule(match="a", quantize=False, **override)
        ((name, value),) = override.items()
        assert str(caught.value) == (
            "A LayerRule with `quantize=False` must set nothing else, for its layers stay in "
            f"float. Received: {name}={value!r}. Drop the other values, or `quantize=False`."
        )

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("match", "", "a string that is not empty, or None"),
            ("match", 3, "a string that is not empty, or None"),
            ("layer_type", b"Dense", "a string that is not empty, or None"),
            ("quantize", None, "True or False"),
            ("weight_bits", 9, "an integer from 2 to 8, or None"),
            ("activation_bits", 1, "an integer from 2 to 8, or None"),
        ],
    )
    def test_values(self, name: str, value: Any, expected: str) -> None:
        with pytest.raises(ConfigError) as caught:
            LayerRule(**{"match": "a", name: value})
        assert (
            str(caught.value) == f"`{name}` of LayerRule must be {expected}. Received: {value!r}."
        )


def refused_text(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        QuantizationConfig.from_yaml(text)
    return str(caught.value)


class TestRefusedFiles:
    @pytest.mark.parametrize(
        ("text", "received"),
        [
            ("weight_bits: 4", "None"),
            ("version: 2", "2"),
            ("version: '1'", "'1'"),
            ("version: true", "True"),
        ],
    )
    def test_a_version_that_is_missing_or_unknown(self, text: str, received: str) -> None:
        assert refused_text(text) == (
            "A config must state the schema it is written in, `version: 1`. "
            f"Received: {received}. Add the line, or update this package for a newer file."
        )

    @pytest.mark.parametrize(
        ("key", "nearest"),
        [
            ("wieght_bits", "weight_bits"),
            ("activation_clip", "activation_clipping"),
            ("layer_rules", "rules"),
        ],
    )
    def test_an_unknown_key(self, key: str, nearest: str) -> None:
        message = refused_text(f"version: 1\n'{key}': 4\n")
        assert message == (
            f"A key must be a field of QuantizationConfig. Received: '{key}'. "
            f"The nearest known one is '{nearest}'."
        )

    def test_an_unknown_key_of_a_rule_names_the_rule(self) -> None:
        text = "version: 1\nrules:\n- match: a\n- match: b\n  weight_bit: 3\n"
        assert refused_text(text) == (
            "rules[1]: A key must be a field of LayerRule. Received: 'weight_bit'. "
            "The nearest known one is 'weight_bits'."
        )

    def test_a_refused_value_of_a_rule_names_the_rule(self) -> None:
        assert refused_text("version: 1\nrules: [{match: a, weight_bits: 9}]\n") == (
            "rules[0]: `weight_bits` of LayerRule must be an integer from 2 to 8, or None. "
            "Received: 9."
        )

    @pytest.mark.parametrize("rules", ["{match: a}", "[a]", "null"])
    def test_rules_that_are_no_list_of_mappings(self, rules: str) -> None:
        message = refused_text(f"version: 1\nrules: {rules}\n")
        assert message.startswith(
            "`rules` must be a list of mappings with the fields of LayerRule."
        )

    @pytest.mark.parametrize("text", ["", "w4a8", "- 1\n- 2"])
    def test_a_text_that_is_no_mapping(self, text: str) -> None:
        assert refused_text(text).startswith("A config must be a mapping of fields to values.")

    @pytest.mark.parametrize(
        "text",
        ["version: [1", "version: 1\nversion: 1\n", "a: 2020-13-45", "[" * 5000, "a: !!python/x b"],
        ids=["open bracket", "key twice", "impossible date", "deep nesting", "python tag"],
    )
    def test_a_text_that_is_no_plain_yaml(self, text: str) -> None:
        assert refused_text(text).startswith("A recipe must be valid YAML.")

    def test_a_file_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "absent.yaml"
        with pytest.raises(ConfigError) as caught:
            QuantizationConfig.from_yaml(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: A recipe must be a readable UTF-8 file.")
        assert "w4a8" in message

    def test_a_file_that_is_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "binary.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="must be a readable UTF-8 file"):
            QuantizationConfig.from_yaml(path)

    def test_a_refusal_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("version: 1\nweight_bits: 16\n", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            QuantizationConfig.from_yaml(path)
        message = str(caught.value)
        assert message.startswith(f"{path}, line 2: `weight_bits` of QuantizationConfig must be")

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("# mine\n\nversion: 2\n", 3),
            ("version: 1\nweight_bits: 4\nweight_bit: 3\n", 3),
            ("version: 1\nrules:\n  - match: a\n  - match: b\n    weight_bits: 1\n", 5),
            ("version: 1\nrules:\n  - match: a\n  - quantize: false\n", 4),
            ("version: 1\nrules: 3\n", 2),
            ("version: 1\n\nminimum_bits: 8\nmaximum_bits: 2\n", 3),
            ("version: 1\naverage_weight_bits: 3.5\n", 2),
            ("weight_bits: 4\n", None),
            ("4", None),
        ],
    )
    def test_a_refusal_names_the_line(self, tmp_path: Path, text: str, line: int | None) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            QuantizationConfig.from_yaml(path)
        where = f"{path}: " if line is None else f"{path}, line {line}: "
        assert str(caught.value).startswith(where)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("version: 1\nversion: 1\n", "the key 'version' is written twice, in line 2"),
            ("version: [1\n", "expected ',' or ']', but got '<stream end>', in line 2"),
        ],
    )
    def test_broken_yaml_is_one_sentence_with_its_line(self, text: str, problem: str) -> None:
        assert refused_text(text) == (
            f"A recipe must be valid YAML. Received: {problem}. Correct that line."
        )


class TestReplace:
    def test_a_change_is_checked_with_the_rest(self) -> None:
        assert QuantizationConfig.preset("w4a8").replace(weight_bits=3).weight_bits == 3
        with pytest.raises(ConfigError, match="must go with a `weight_bit_allocation`"):
            QuantizationConfig.preset("w4a8").replace(average_weight_bits=3.5)

    def test_an_unknown_field_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(
            ConfigError, match=r"'weights_bits'.*nearest known one is 'weight_bits'"
        ):
            QuantizationConfig().replace(weights_bits=3)


class TestAverageWeightBits:
    @pytest.mark.parametrize(
        ("average", "bits"), [(2.0, 2), (3.5, 3), (4.0, 4), (4.15, 4), (7.5, 7), (8.0, 8)]
    )
    def test_a_budget_pays_for_what_lies_above_whole_bits(self, average: float, bits: int) -> None:
        preset = QuantizationConfig.preset("w4a8")
        assert preset.with_average_weight_bits(average) == preset.replace(
            weight_bits=bits, weight_bit_budget=average
        )

    def test_measured_bits_share_a_budget(self) -> None:
        config = QuantizationConfig(weight_bit_allocation="measured", average_weight_bits=4.5)
        changed = config.with_average_weight_bits(3.5)
        assert changed == config.replace(weight_bits=3, weight_bit_budget=3.5)

    def test_an_allocation_meets_the_average(self) -> None:
        preset = QuantizationConfig.preset("paper_w4a4")
        assert preset.with_average_weight_bits(3.5) == preset.replace(average_weight_bits=3.5)


DEFAULT = {"weight_bits": 4, "activation_bits": 6, "activation_clipping": "auto"}
NAME_3, NAME_5 = LayerRule(match="conv*", weight_bits=3), LayerRule(match="*_1", weight_bits=5)
TYPE_2 = LayerRule(layer_type="Conv2D", weight_bits=2)
TYPE_7 = LayerRule(layer_type="Conv2D", weight_bits=7, activation_bits=7)
TYPE_FLOAT = LayerRule(layer_type="Conv2D", quantize=False)
NAME_FLOAT = LayerRule(match="conv_1", quantize=False)
BOTH = LayerRule(match="conv*", layer_type="Dense", weight_bits=2)


class TestPrecedence:
    @pytest.mark.parametrize(
        ("rules", "changes", "reason"),
        [
            pytest.param((), {}, "default", id="no rule"),
            pytest.param((LayerRule(match="x"),), {}, "default", id="rule for another layer"),
            pytest.param((BOTH,), {}, "default", id="both conditions must hold"),
            pytest.param((TYPE_2,), {"weight_bits": 2}, "weight_bits=2 from rules[0]", id="type"),
            pytest.param((NAME_3,), {"weight_bits": 3}, "weight_bits=3 from rules[0]", id="name"),
            pytest.param(
                (NAME_3, TYPE_2),
                {"weight_bits": 3},
                "weight_bits=3 from rules[0]",
                id="name over a later type",
            ),
            pytest.param(
                (NAME_3, NAME_5),
                {"weight_bits": 5},
                "weight_bits=5 from rules[1]",
                id="later name wins",
            ),
            pytest.param(
                (TYPE_7, TYPE_2),
                {"weight_bits": 2, "activation_bits": 7},
                "weight_bits=2 from rules[1]; activation_bits=7 from rules[0]",
                id="later type wins, what it leaves open falls through",
            ),
            pytest.param(
                (NAME_3, TYPE_7),
                {"weight_bits": 3, "activation_bits": 7},
                "weight_bits=3 from rules[0]; activation_bits=7 from rules[1]",
                id="what the name leaves open is the type's",
            ),
            pytest.param(
                (TYPE_FLOAT, NAME_3),
                {"weight_bits": 3},
                "quantize=True from rules[1]; weight_bits=3 from rules[1]",
                id="name brings a layer back that its type leaves in float",
            ),
            pytest.param(
                (LayerRule(match="conv_1", activation_clipping="mse"),),
                {"activation_clipping": "mse"},
                "activation_clipping=mse from rules[0]",
                id="clipping",
            ),
        ],
    )
    def test_rules(
        self, rules: tuple[LayerRule, ...], changes: dict[str, Any], reason: str
    ) -> None:
        config = QuantizationConfig(activation_bits=6, rules=rules)
        assert config.for_layer("conv_1", "Conv2D") == LayerSettings(
            quantize=True,
            reason=reason,
            usual_weight_bits="weight_bits" not in changes,
            usual_activation_bits="activation_bits" not in changes,
            **(DEFAULT | changes),
        )

    @pytest.mark.parametrize(
        ("rules", "reason"),
        [
            pytest.param((TYPE_FLOAT,), "quantize=False from rules[0]", id="type"),
            pytest.param((NAME_FLOAT, TYPE_7), "quantize=False from rules[0]", id="name over type"),
            pytest.param((NAME_3, NAME_FLOAT), "quantize=False from rules[1]", id="later name"),
        ],
    )
    def test_layers_left_in_float(self, rules: tuple[LayerRule, ...], reason: str) -> None:
        assert QuantizationConfig(rules=rules).for_layer("conv_1", "Conv2D") == LayerSettings(
            quantize=False,
            weight_bits=None,
            activation_bits=None,
            activation_clipping=None,
            reason=reason,
        )

    @pytest.mark.parametrize(
        ("fields", "place", "weight_bits", "reason"),
        [
            ({}, {}, 4, "default"),
            ({}, {"first": True}, 8, "weight_bits=8 from first_layer_bits"),
            ({"last_layer_bits": 6}, {"last": True}, 6, "weight_bits=6 from last_layer_bits"),
            ({"first_layer_bits": None}, {"first": True}, 4, "default"),
            (
                {"first_layer_bits": 5, "last_layer_bits": 6},
                {"first": True, "last": True},
                6,
                "weight_bits=6 from last_layer_bits",
            ),
            (
                {"last_layer_bits": None},
                {"first": True, "last": True},
                8,
                "weight_bits=8 from first_layer_bits",
            ),
            ({"rules": (NAME_3,)}, {"first": True}, 3, "weight_bits=3 from rules[0]"),
        ],
    )
    def test_the_ends_of_the_network(
        self, fields: dict[str, Any], place: dict[str, bool], weight_bits: int, reason: str
    ) -> None:
        settings = QuantizationConfig(**fields).for_layer("conv_1", "Conv2D", **place)
        assert (settings.weight_bits, settings.reason) == (weight_bits, reason)

    @pytest.mark.parametrize(
        ("fields", "place", "weight_bits"),
        [
            ({}, {}, 4),
            ({"depthwise_weight_bits": 6}, {"depthwise": True}, 6),
            ({"depthwise_weight_bits": 6}, {"depthwise": True, "first": True}, 8),
            ({"depthwise_weight_bits": 6, "rules": (NAME_3,)}, {"depthwise": True}, 3),
        ],
    )
    def test_depthwise_kernels(
        self, fields: dict[str, Any], place: dict[str, bool], weight_bits: int
    ) -> None:
        config = QuantizationConfig(**fields)
        assert config.for_layer("conv_1", "DepthwiseConv2D", **place).weight_bits == weight_bits
        if not fields.get("rules") and not place:
            assert config.for_layer("conv_1", "Conv2D").weight_bits == 4

    @pytest.mark.parametrize(
        ("fields", "signed", "activation_bits"),
        [
            ({}, True, 4),
            ({"signed_activation_bits": 8}, False, 4),
            ({"signed_activation_bits": 8}, True, 8),
            ({"signed_activation_bits": 8, "rules": (TYPE_7,)}, True, 7),
        ],
    )
    def test_signed_activations(
        self, fields: dict[str, Any], signed: bool, activation_bits: int
    ) -> None:
        config = QuantizationConfig(activation_bits=4, **fields)
        settings = config.for_layer("conv_1", "Conv2D", signed_output=signed)
        assert settings.activation_bits == activation_bits

    def test_names_match_case_sensitively(self) -> None:
        config = QuantizationConfig(rules=(LayerRule(match="Conv*", weight_bits=3),))
        assert config.for_layer("conv_1", "Conv2D").weight_bits == 4
        assert config.for_layer("Conv_1", "Conv2D").weight_bits == 3

    def test_an_exception_names_the_bits_that_an_allocation_or_a_budget_may_not_change(
        self,
    ) -> None:
        config = QuantizationConfig(rules=(TYPE_7,))
        inner = config.for_layer("dense", "Dense")
        assert (inner.usual_weight_bits, inner.usual_activation_bits) == (True, True)
        first = config.for_layer("dense", "Dense", first=True)
        assert (first.usual_weight_bits, first.usual_activation_bits) == (False, True)
        ruled = config.for_layer("conv_1", "Conv2D")
        assert (ruled.usual_weight_bits, ruled.usual_activation_bits) == (False, False)


class TestProperties:
    @pytest.mark.parametrize(
        ("fields", "per_channel", "target"),
        [
            ({}, False, "int8_container"),
            ({"activation_granularity": "per_channel"}, True, "float_simulated"),
            ({"activation_bit_allocation": "exact"}, True, "float_simulated"),
            ({"weight_bit_allocation": "exact"}, False, "int8_container"),
            ({"mean_correction": "weights"}, False, "float_simulated"),
            ({"mean_correction": "weights", "bias_correction": False}, False, "int8_container"),
            ({"mean_correction": "roundings"}, False, "int8_container"),
            ({"quantized_tensors": "layer_inputs"}, False, "float_simulated"),
        ],
    )
    def test_target(self, fields: dict[str, Any], per_channel: bool, target: str) -> None:
        config = QuantizationConfig(**fields)
        assert config.needs_per_channel_activations is per_channel
        assert config.needs_float_target is (target == "float_simulated")
        assert config.default_target == target

    @pytest.mark.parametrize(
        ("fields", "choice"),
        [
            ({"activation_granularity": "per_channel"}, "activation_granularity"),
            ({"activation_bit_allocation": "exact"}, "activation_bit_allocation"),
            ({"mean_correction": "weights"}, "mean_correction"),
            ({"quantized_tensors": "layer_inputs"}, "quantized_tensors"),
        ],
    )
    def test_the_way_to_integers_names_the_choice_and_is_one(
        self, fields: dict[str, Any], choice: str
    ) -> None:
        config = QuantizationConfig(**fields)
        assert choice in config.float_only.change
        changes = dict(part.split(": ") for part in config.float_only.change.split(" and "))
        assert config.replace(**changes).float_only is None

    @pytest.mark.parametrize(
        ("fields", "needed"),
        [
            ({}, False),
            ({"bias_correction": True}, False),
            ({"output_matching": True}, True),
            ({"refit_weights": True}, True),
            ({"weight_rounding": "second_order"}, True),
            ({"weight_bit_allocation": "exact"}, False),
            ({"weight_bit_allocation": "measured"}, True),
        ],
    )
    def test_images(self, fields: dict[str, Any], needed: bool) -> None:
        assert QuantizationConfig(**fields).needs_images is needed

    @given(configs())
    def test_without_images_nothing_else_changes(self, config: QuantizationConfig) -> None:
        kept = config.without_images()
        assert not kept.needs_images
        assert kept == config or config.needs_images
        choices = ("output_matching", "refit_weights", "weight_rounding", "bias_correction")
        if config.weight_bit_allocation == "measured":
            choices += ("weight_bit_allocation", "average_weight_bits", "weight_bit_budget")
        assert kept.replace(**{name: getattr(config, name) for name in choices}) == config

    @pytest.mark.parametrize(
        ("fields", "corrected"),
        [
            ({"bias_correction": True}, True),
            ({"bias_correction": False}, False),
            ({"bias_correction": False, "refit_weights": True}, False),
            ({"bias_correction": False, "output_matching": True}, True),
            (
                {
                    "bias_correction": False,
                    "output_matching": True,
                    "mean_correction": "none",
                    "variance_correction": False,
                },
                False,
            ),
        ],
    )
    def test_bias_correction_stands_in_for_output_matching(
        self, fields: dict[str, Any], corrected: bool
    ) -> None:
        assert QuantizationConfig(**fields).without_images().bias_correction is corrected

    @pytest.mark.parametrize(
        ("fields", "budget"),
        [
            ({"weight_bits": 5}, 5),
            ({"average_weight_bits": 3.5}, 3.5),
            ({"weight_bit_budget": 4.15, "average_weight_bits": 3.5}, 4.15),
        ],
    )
    def test_measured_bits_become_a_budget(self, fields: dict[str, Any], budget: float) -> None:
        config = QuantizationConfig(weight_bit_allocation="measured", **fields)
        changes = {"average_weight_bits": None, "weight_bit_budget": budget}
        assert config.without_measured_bits() == config.replace(
            weight_bit_allocation="none", **changes
        )

    @pytest.mark.parametrize(
        ("fields", "parts"),
        [
            ({}, ()),
            ({"weight_bit_budget": 4.1}, ("weights",)),
            ({"weight_bit_allocation": "measured"}, ("weights",)),
            ({"activation_bit_budget": 4.5}, ("activation",)),
            ({"weight_bit_budget": 4.1, "activation_bit_budget": 4.5}, ("weights", "activation")),
            ({"activation_granularity": "per_channel", "weight_bit_budget": 4.1}, ("weights",)),
        ],
    )
    def test_measured_parts(self, fields: dict[str, Any], parts: tuple[str, ...]) -> None:
        assert QuantizationConfig(**fields).measured_parts == parts

    @pytest.mark.parametrize("kind", ["weight", "activation"])
    def test_the_mean_is_the_average_where_given(self, kind: str) -> None:
        fields: dict[str, Any] = {f"{kind}_bits": 5, f"{kind}_bit_allocation": "exact"}
        assert getattr(QuantizationConfig(**fields), f"mean_{kind}_bits") == 5
        fields[f"average_{kind}_bits"] = 3.5
        assert getattr(QuantizationConfig(**fields), f"mean_{kind}_bits") == 3.5

    def test_description_of_everything(self) -> None:
        config = QuantizationConfig(
            average_weight_bits=3.5,
            weight_bit_allocation="exact",
            weight_rounding="second_order",
            refit_weights=True,
            last_layer_bits=None,
            depthwise_weight_bits=8,
            signed_activation_bits=8,
            weight_bit_budget=4.15,
            activation_bit_budget=4.5,
            activation_bits=4,
            output_matching=True,
            rules=(NAME_3, TYPE_2),
        )
        assert describe(config) == (
            "weights 3.5 bits on average (exact allocation) per_channel (squared_error, "
            "second_order rounding, refit, bias correction, first 8, depthwise 8, budget 4.15), "
            "activations 4 bits per_tensor (auto, signed 8, budget 4.5), output matching, "
            "2 layer rules"
        )
