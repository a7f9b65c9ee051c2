"""What the page says, without a browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import in_float, report, row

from tflite_ptq4.errors import OutputError
from tflite_ptq4.report.page import render_page
from tflite_ptq4.report.values import NOT_MEASURED, Outcome
from tflite_ptq4.sensitivity import Sensitivity

SCRIPT = "<script>alert(1)</script>"
MADE = report(
    row("first", sensitivity=Sensitivity(0.03, 0.001)),
    row(SCRIPT, sensitivity=Sensitivity(0.001, 0.02)),
    in_float("odd", "no <integer> form"),
    model="<b>net</b>",
    budgets={"weight_bit_budget": (4.15, 200)},
    free_settings={"output_matching": True},
)
OUTCOME = Outcome(
    file="net.tflite",
    bytes=250_000,
    float_bytes=1_000_000,
    target="int8_container",
    images=64,
    agreement=0.9375,
    sqnr_db=18.25,
    top1=0.75,
    float_top1=0.8,
    accuracy_over_bits=((4.1, 0.78, "w4"), (8.0, 0.8, "w8")),
    seconds=12.3,
)


def text_of(page: str) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_what_came_out_is_said() -> None:
    text = text_of(render_page(MADE, OUTCOME))
    for told in ("75.0%", "float 80.0%", "93.8%", "18.2 dB", "250 kB", "4.0 times smaller"):
        assert told in text
    assert "4.10 4.50 per activation" in text
    assert "12 s" in text
    assert "w4: 78.00, w8: 80.00" in text


@pytest.mark.parametrize(
    ("sqnr_db", "told"), [(math.inf, "SQNR equal"), (-math.inf, "SQNR -inf dB")]
)
def test_outputs_without_an_error_are_equal_and_null_in_json(
    tmp_path: Path, sqnr_db: float, told: str
) -> None:
    MADE.save(tmp_path, replace(OUTCOME, agreement=1.0, sqnr_db=sqnr_db))
    assert told in text_of((tmp_path / "report.html").read_text())
    assert json.loads((tmp_path / "report.json").read_text())["outcome"]["sqnr_db"] is None


def test_what_was_not_measured_is_said() -> None:
    unmeasured = replace(
        MADE, rows=tuple(replace(r, sensitivity=None, output_sqnr_db=None) for r in MADE.rows)
    )
    page = render_page(unmeasured, NOT_MEASURED)
    text = text_of(page)
    assert text.count("not measured") >= 4
    assert "Which layers cost the outputs most was not measured" in text
    assert "Alone dB" not in text and "Accuracy over average bits" not in text
    assert "Time" not in text


def test_the_worst_layers_come_with_the_lines_to_paste() -> None:
    page = render_page(MADE, NOT_MEASURED)
    blocks = [
        block.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
        for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    ]
    free, first, second, together = blocks
    assert free == "output_matching: true"
    # 4 bits for 100 of 200 weights are 2 on average.
    budget = "weight_bit_budget: 6.15  # so that no other layer pays for the rules"
    assert first == f'{budget}\nrules:\n  - {{match: "first", weight_bits: 8}}'
    assert second == f'rules:\n  - {{match: "{SCRIPT}", activation_bits: 8}}'
    assert together == first + second.removeprefix("rules:")


@pytest.mark.parametrize(
    ("channels", "said"),
    [(((4, 1),), "2.00% clipped"), (((3, 5), (5, 7)), "the widest of 12 clips is drawn")],
)
def test_a_tensor_of_several_clips_is_told_apart(channels: tuple, said: str) -> None:
    page = render_page(report(row(activation_channels=channels, weight_values=None)), NOT_MEASURED)
    assert said in text_of(page)


def test_what_stays_in_float_is_listed_with_its_reason() -> None:
    assert "odd Lambda no &lt;integer&gt; form" in text_of(render_page(MADE, NOT_MEASURED))
    assert "no operator is left in float" in render_page(report(row()), NOT_MEASURED)


def test_names_are_escaped_and_nothing_is_fetched() -> None:
    page = render_page(MADE, OUTCOME)
    assert page.startswith("<!doctype html>")
    assert "alert(1)</script>" not in page
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert not re.search(r"https?:|(src|href)=\"[^#d]|@import|url\(", page)


def test_both_files_are_written_and_equal_runs_give_equal_files(tmp_path: Path) -> None:
    MADE.save(tmp_path / "new" / "folder", OUTCOME)
    MADE.save(tmp_path / "again", OUTCOME)
    for name in ("report.html", "report.json"):
        first = (tmp_path / "new" / "folder" / name).read_bytes()
        assert first == (tmp_path / "again" / name).read_bytes()
    values = json.loads((tmp_path / "again" / "report.json").read_text())
    assert values["outcome"]["agreement"] == 0.9375
    assert values["report"]["rows"] == json.loads(
        json.dumps(MADE.to_dict(distributions=True)["rows"])
    )
    assert [entry["layer"] for entry in values["report"]["worst"]] == ["first", SCRIPT]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="must go into a folder"):
        MADE.save(tmp_path / "taken")


def test_an_empty_report_is_a_page() -> None:
    assert "Every layer" in render_page(report(), NOT_MEASURED)
