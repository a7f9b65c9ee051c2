"""What is advised about a layer, with the arithmetic of what would be left."""

from __future__ import annotations

import pytest
import yaml
from report_samples import row

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.report.advice import advise, free_settings, matching, recipe_lines, worst_layers
from tflite_ptq4.sensitivity import Sensitivity


def costing(of_weights: float | None, of_output: float | None, **changes: object):
    return row(sensitivity=Sensitivity(of_weights, of_output), **changes)


@pytest.mark.parametrize(
    ("cost", "bits", "rule", "keeps"),
    [
        # Four bits more leave 4^-4 = 1/256 of a part.
        ((0.9, 0.1), (4, 4), {"weight_bits": 8}, 0.1 + 0.9 / 256),
        ((0.1, 0.9), (4, 4), {"activation_bits": 8}, 0.1 + 0.9 / 256),
        ((0.6, 0.4), (4, 4), {"weight_bits": 8, "activation_bits": 8}, 1 / 256),
        ((0.9, 0.1), (6, 4), {"weight_bits": 8}, 0.1 + 0.9 / 16),
        ((0.9, 0.1), (8, 4), {"activation_bits": 8}, 0.9 + 0.1 / 256),
        ((0.99, 0.01), (8, 4), {"quantize": False}, 0.0),  # too little is left to gain
        ((0.5, 0.5), (8, 8), {"quantize": False}, 0.0),
    ],
)
def test_the_dominating_part_gets_eight_bits(cost, bits, rule: dict, keeps: float) -> None:
    layer = costing(*cost, weight_bits=float(bits[0]), activation_bits=float(bits[1]))
    advice = advise(layer, [layer])
    assert advice.rule == {"match": "conv", **rule}
    assert advice.keeps == pytest.approx(keeps)
    assert advice.setting is None


def test_an_output_whose_scale_another_layer_sets() -> None:
    layer, other = costing(0.1, 0.9, output_rule="joined"), row("joined", elements=200)
    advice = advise(layer, [layer, other])
    assert advice.rule == {"match": "joined", "activation_bits": 8}
    assert advice.added == {"activation_bit_budget": 4 * 200}
    assert "joined" in advice.reason


def test_an_input_is_a_field_of_the_recipe() -> None:
    image = costing(None, 0.9, output_rule=None, output_setting="input_bits", weights=0)
    advice = advise(image, [image])
    assert (advice.rule, advice.setting) == (None, ("input_bits", 8))
    assert recipe_lines([advice], {}) == ["input_bits: 8"]


def test_nothing_is_advised_where_nothing_helps() -> None:
    layer = costing(None, 0.9, weights=0, activation_bits=8.0)
    advice = advise(layer, [layer])
    assert (advice.rule, advice.setting, advice.keeps) == (None, None, 1.0)
    assert recipe_lines([advice], {}) == []


def test_without_sensitivity_the_weights_with_the_least_sqnr() -> None:
    rows = [
        row(name, weight_sqnr_db=value, sensitivity=None)
        for name, value in (("a", 20.0), ("b", 10.0), ("c", None), ("d", 15.0))
    ]
    assert [layer.name for layer in worst_layers(rows)] == ["b", "d", "a"]
    advice = advise(rows[1], rows)
    assert advice.rule == {"match": "b", "weight_bits": 8}
    assert advice.keeps is None


def test_the_worst_cost_most_together() -> None:
    rows = [
        row(str(number), sensitivity=Sensitivity(0.01 * number, 0.1 - 0.02 * number))
        for number in range(5)  # 0.10, 0.09, 0.08, ...
    ]
    assert [layer.name for layer in worst_layers(rows, 2)] == ["0", "1"]
    assert worst_layers([row(sensitivity=None, weight_sqnr_db=None)]) == ()


@pytest.mark.parametrize(
    ("name", "layer", "others", "expected"),
    [
        ("conv/linear", "conv", (), "conv"),
        ("conv/linear", "conv", ("conv",), "conv/linear"),  # the activation is a row too
        ("sep/depthwise", "sep", ("sep/pointwise",), "sep/depthwise"),
        ("a*[b]?", "a*[b]?", ("axb",), "a[*][[]b]?".replace("?", "[?]")),
    ],
)
def test_a_rule_means_one_row(name: str, layer: str, others: tuple, expected: str) -> None:
    rows = [row(name, layer=layer), *(row(other, layer=layer) for other in others)]
    assert matching(rows[0], rows) == expected


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", "größe", "line\nbreak", "a: b"])
def test_the_lines_are_yaml_that_a_config_takes(name: str) -> None:
    layer = costing(0.9, 0.1, name=name, layer=name)
    other = costing(0.1, 0.9, name="other", layer="other", output_rule="other")
    advices = [advise(layer, [layer, other]), advise(other, [layer, other])]
    lines = recipe_lines(
        advices, {"weight_bit_budget": (4.15, 1000), "activation_bit_budget": (4.5, 500)}
    )
    values = yaml.safe_load("\n".join(lines))
    # 4 bits more for 100 of 1000 weights, and for 50 of 500 elements.
    assert values["weight_bit_budget"] == pytest.approx(4.15 + 0.4)
    assert values["activation_bit_budget"] == pytest.approx(4.5 + 0.4)
    config = QuantizationConfig.from_dict({"version": 1, **values})
    assert config.for_layer(name, "Conv2D").weight_bits == 8
    assert config.for_layer("other", "Conv2D").activation_bits == 8


def test_corrections_that_cost_no_bits() -> None:
    bare = QuantizationConfig.preset("w4a8", output_matching=False, weight_rounding="nearest")
    assert free_settings(bare) == {"weight_rounding": "second_order", "output_matching": True}
    for preset in ("w4a8", "w8a8", "paper_w4a4"):
        assert free_settings(QuantizationConfig.preset(preset)) == {}
