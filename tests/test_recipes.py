from __future__ import annotations

import re

import pytest
import yaml

from tflite_ptq4 import recipes
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ConfigError

PRESETS = ("paper_w4a4", "w4a4", "w4a4_strict", "w4a8", "w8a4", "w8a8")


def test_the_presets_are_these() -> None:
    assert recipes.names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
class TestEveryPreset:
    def test_states_every_field_in_order(self, name: str) -> None:
        # A later change of a default must not change what a preset means.
        stated = yaml.safe_load(recipes.text(name))
        assert list(stated) == list(QuantizationConfig().to_dict())
        assert QuantizationConfig.preset(name).to_dict() == stated

    def test_opens_with_a_comment_that_decodes_the_name(self, name: str) -> None:
        decoded = re.fullmatch(r"(?:paper_)?w(\d)a(\d)(?:_strict)?", name)
        weight_bits, activation_bits = decoded.groups()
        first_line = recipes.text(name).splitlines()[0]
        assert first_line.startswith(f"# {name}: ")
        assert f"{weight_bits}-bit weights, {activation_bits}-bit activations" in first_line

    def test_has_the_bits_of_its_name(self, name: str) -> None:
        config = QuantizationConfig.preset(name)
        assert f"w{config.weight_bits}a{config.activation_bits}" in name.split("_")
        assert (config.mean_weight_bits, config.mean_activation_bits) == (
            config.weight_bits,
            config.activation_bits,
        )

    def test_fits_the_target_that_its_name_promises(self, name: str) -> None:
        promised = "float_simulated" if name.startswith("paper_") else "int8_container"
        assert QuantizationConfig.preset(name).default_target == promised

    def test_keeps_the_ends_of_the_network_at_8_bits(self, name: str) -> None:
        config = QuantizationConfig.preset(name)
        assert (config.first_layer_bits, config.last_layer_bits) == (8, 8)


def test_the_paper_preset_has_its_three_parts() -> None:
    config = QuantizationConfig.preset("paper_w4a4")
    assert config.activation_granularity == "per_channel"
    assert (config.weight_bit_allocation, config.activation_bit_allocation) == ("exact", "exact")
    assert config.bias_correction and config.variance_correction
    assert config.quantized_tensors == "layer_inputs"
    assert config.weight_rounding == "nearest" and not config.refit_weights
    assert config.depthwise_weight_bits is None and not config.measured_parts


@pytest.mark.parametrize("name", ["w4a4", "w8a4"])
def test_four_bit_activations_are_so_within_half_a_bit_on_average(name: str) -> None:
    assert QuantizationConfig.preset(name).activation_bit_budget == 4.5


def test_the_strict_preset_differs_in_its_budget_of_activation_bits_alone() -> None:
    strict = QuantizationConfig.preset("w4a4_strict")
    assert strict == QuantizationConfig.preset("w4a4", activation_bit_budget=None)


def test_overrides_replace_fields_and_are_checked() -> None:
    assert QuantizationConfig.preset("w4a8", weight_bits=3) == QuantizationConfig.preset(
        "w4a8"
    ).replace(weight_bits=3)
    with pytest.raises(ConfigError, match="`weight_bits` of QuantizationConfig must be"):
        QuantizationConfig.preset("w4a8", weight_bits=16)
    with pytest.raises(ConfigError, match="The nearest known one is 'weight_bits'"):
        QuantizationConfig.preset("w4a8", weights_bits=3)


@pytest.mark.parametrize(
    ("name", "nearest"), [("w4a9", "w4a8"), ("W8A8", "w8a8"), ("paper", "paper_w4a4")]
)
def test_an_unknown_preset_is_refused_with_the_list_and_the_nearest(
    name: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        QuantizationConfig.preset(name)
    assert str(caught.value) == (
        "A preset must be one of 'paper_w4a4', 'w4a4', 'w4a4_strict', 'w4a8', 'w8a4', "
        f"'w8a8'. Received: {name!r}. The nearest is {nearest!r}."
    )
