from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from tflite_ptq4.cli import main
from tflite_ptq4.cli.arguments import Parser, add_arguments
from tflite_ptq4.targets import TARGETS

QUANTIZE = ["quantize", "m.keras", "--calibration", "c", "--output", "o.tflite"]
EVALUATE = ["evaluate", "a.keras", "b.tflite", "--data", "d"]


def parse(*argv: str) -> argparse.Namespace:
    parser = Parser(prog="tflite-ptq4")
    add_arguments(parser)
    return parser.parse_args(argv)


def test_defaults_of_quantize() -> None:
    arguments = parse(*QUANTIZE)
    assert (arguments.samples, arguments.mean, arguments.std) == (64, 0.0, 1.0)
    assert (arguments.io, arguments.target, arguments.preset, arguments.recipe) == (
        "float32", None, None, None,
    )  # fmt: skip
    assert (arguments.resize, arguments.crop, arguments.plan, arguments.json) == (
        None, None, None, False,
    )  # fmt: skip
    assert (arguments.input_size, arguments.dynamic_batch) == (None, False)


def test_evaluate_takes_any_number_of_models_and_all_images() -> None:
    arguments = parse(*EVALUATE)
    assert [str(path) for path in arguments.models] == ["a.keras", "b.tflite"]
    assert arguments.samples is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["127"], 127.0),
        (["-1.5"], -1.5),
        (["1", "2", "3.5"], (1.0, 2.0, 3.5)),
        (["1,2,3.5"], (1.0, 2.0, 3.5)),
    ],
)
def test_mean_is_one_number_or_three(values: list[str], expected: object) -> None:
    assert parse(*EVALUATE, "--mean", *values).mean == expected


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_chosen(target: str) -> None:
    assert parse(*QUANTIZE, "--target", target).target == target


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["quantize"], "MODEL"),
        (QUANTIZE[:-2], "--output"),
        ([*QUANTIZE, "--samples", "0"], "--samples: must be a whole number above zero, got '0'"),
        ([*QUANTIZE, "--samples", "1.5"], "must be a whole number above zero, got '1.5'"),
        ([*QUANTIZE, "--resize", "-3"], "--resize: must be a whole number above zero"),
        ([*QUANTIZE, "--crop", "big"], "--crop: must be a whole number above zero, got 'big'"),
        ([*QUANTIZE, "--input-size", "224"], "--input-size: expected 2 arguments"),
        ([*QUANTIZE, "--input-size", "8", "0"], "--input-size: must be a whole number above zero"),
        ([*QUANTIZE, "--mean", "1", "2"], "--mean must be one number or three"),
        ([*QUANTIZE, "--mean", "nan"], "--mean: must be numbers such as 127"),
        ([*QUANTIZE, "--std", "1,x,3"], "--std: must be numbers such as 127"),
        ([*QUANTIZE, "--std", "1", "0", "1"], "--std must be above zero, got 0"),
        ([*QUANTIZE, "--target", "packed"], "--target: invalid choice: 'packed'"),
        ([*QUANTIZE, "--io", "uint8"], "--io: invalid choice: 'uint8'"),
        ([*QUANTIZE, "--preset", "w4a8", "--recipe", "r.yaml"], "not allowed with"),
        (["evaluate", "--data", "d"], "MODEL"),
        ([*EVALUATE, "--threads", "0"], "--threads: must be a whole number above zero"),
        (["inspect"], "FILE.tflite"),
    ],
)
def test_a_bad_argument_is_one_sentence_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["quantize", "calibrate", "evaluate", "inspect"])
def test_help_names_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert command in capsys.readouterr().out
    assert main([command, "--help"]) == 0
    assert f"usage: tflite-ptq4 {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["quantize", "--help"],
        [*QUANTIZE, "--preset", "nonsense"],
        QUANTIZE,
        ["calibrate", "m.keras", "--calibration", "c", "--output", "o"],
        EVALUATE,
        ["inspect", "absent.tflite"],
    ],
    ids=" ".join,
)
def test_help_and_early_refusals_load_no_tensorflow(argv: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from tflite_ptq4.cli import main\n"
        f"code = main({argv!r})\n"
        "print(json.dumps([code, sorted({'tensorflow', 'keras'} & set(sys.modules))]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = 0 if "--help" in argv else 2
    assert json.loads(run.stdout.splitlines()[-1]) == [expected, []]
