from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tflite_ptq4 import recipes
from tflite_ptq4.cli import main
from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.schema import recipe_schema


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text("version: 1\nweight_bits: 3\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("version: 1\n\nweight_bits: 1\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("version: [", encoding="utf-8")
    (tmp_path / "worse.yaml").write_text(WORSE, encoding="utf-8")
    return tmp_path


WORSE = """\
version: 1
weight_bitz: 3
activation_bits: 99
minimum_bits: 7
maximum_bits: 2
rules:
- {macth: a, weight_bits: 9}
- {match: b, weight_bits: 3}
- {match: c, quantize: false, weight_bits: 4}
weight_scale: max_abs
weight_scale: maximum
"""


def test_list_names_the_presets(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["recipes"]
    assert tuple(found) == recipes.names()
    assert found["w4a8"] == "4-bit weights, 8-bit activations."
    assert main(["recipes", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.split("\n")[2:-2]] == list(found)


def test_show_prints_the_file(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes", "show", "w4a4"]) == 0
    assert capsys.readouterr().out == recipes.text("w4a4")
    assert main(["recipes", "show", "w4a4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert QuantizationConfig.from_dict(shown) == QuantizationConfig.preset("w4a4")


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()


def test_validate_says_what_valid_files_mean(folder: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / "good.yaml"
    assert main(["recipes", "validate", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}: valid: weights 3 bits per_channel") and err == ""


def test_validate_refuses_each_invalid_file_by_one_sentence_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    paths = [str(folder / name) for name in ("bad.yaml", "good.yaml", "broken.yaml", "absent.yaml")]
    assert main(["recipes", "validate", *paths]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and out.startswith(paths[1])
    bad, broken, absent = err.splitlines()
    assert bad == (
        f"tflite-ptq4: {paths[0]}, line 3: `weight_bits` of QuantizationConfig must be an integer "
        "from 2 to 8. Received: 1."
    )
    assert f"{paths[2]}: A recipe must be valid YAML." in broken and "in line 1" in broken
    assert f"{paths[3]}: A recipe must be a readable UTF-8 file." in absent
    assert main(["recipes", "validate", "--json", *paths[:2]]) == 2
    result = json.loads(capsys.readouterr().out)
    meanings = result["files"]
    assert meanings[paths[0]] is None and meanings[paths[1]].startswith("weights 3 bits")
    assert result["problems"] == {paths[0]: [bad.removeprefix("tflite-ptq4: ")], paths[1]: []}


def test_validate_lists_all_that_is_wrong_in_a_file_from_top_to_bottom(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    path = str(folder / "worse.yaml")
    assert main(["recipes", "validate", path]) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = [
        ("", "the key 'weight_scale' is written twice, in line 11"),
        (", line 2", "A key must be a field of QuantizationConfig. Received: 'weight_bitz'."),
        (", line 3", "`activation_bits` of QuantizationConfig must be an integer from 2 to 8."),
        (", line 4", "`minimum_bits` must not exceed `maximum_bits`. Received: 7 and 2."),
        (", line 7", "rules[0]: A key must be a field of LayerRule. Received: 'macth'."),
        (
            ", line 7",
            "rules[0]: `weight_bits` of LayerRule must be an integer from 2 to 8, or None",
        ),
        (", line 9", "rules[2]: A LayerRule with `quantize=False` must set nothing else"),
        (", line 10", "`weight_scale` of QuantizationConfig must be one of 'squared_error'"),
    ]
    assert len(lines) == len(expected)
    for line, (place, sentence) in zip(lines, expected, strict=True):
        assert line.startswith(f"tflite-ptq4: {path}{place}: ") and sentence in line


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["recipes"], "the following arguments are required: ACTION"),
        (["recipes", "show"], "the following arguments are required: NAME"),
        (["recipes", "validate"], "the following arguments are required: FILE.yaml"),
        (["recipes", "show", "w4a9"], "The nearest is 'w4a8'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(argv) == 2
    assert sentence in capsys.readouterr().err


def test_it_needs_no_tensorflow(folder: Path) -> None:
    script = (
        "import sys\nfrom tflite_ptq4.cli import main\n"
        f"main(['recipes', 'validate', {str(folder / 'good.yaml')!r}])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
