"""The arguments of all commands, declared for the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tflite_ptq4.benchmark.effort import DELEGATES, DeviceEffort, HostEffort
from tflite_ptq4.cli.argument_values import (
    ChannelValues,
    at_least,
    finite_number,
    finite_numbers,
    positive_integer,
    seconds,
    thread_counts,
)
from tflite_ptq4.config_values import EFFORTS
from tflite_ptq4.targets import LAYOUTS, TARGETS

DEFAULT_PRESET = "w4a8"
FRAMEWORKS = ("auto", "keras", "tf_keras")
DEFAULT_SAMPLES = 64
DEFAULT_VALIDATED = 16
DEFAULT_THRESHOLD_DB = 20.0


class Parser(argparse.ArgumentParser):
    """A parser that answers a bad argument with one sentence, not with the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and stop with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_arguments(parser: Parser) -> None:
    """Declare the commands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module, summary, declare in (
        ("quantize", "quantize", "Write a 4-bit .tflite file of a Keras model.", _quantize),
        ("calibrate", "calibrate", "Gather statistics of a Keras model's activations.", _calibrate),
        ("evaluate", "evaluate", "Measure Keras and TFLite models on images.", _evaluate),
        ("compare", "compare", "Compare two models layer by layer on images.", _compare),
        ("inspect", "inspect_file", "Show what lies in a .tflite file.", _inspect),
        ("benchmark", "benchmark", "Time .tflite files, here or on Android.", _benchmark),
    ):
        _add_command(commands, name, summary, declare).set_defaults(module=module)
    _add_recipes(commands)


def _add_command(
    commands: Any, name: str, summary: str, declare: Callable[[argparse.ArgumentParser], None]
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    declare(command)
    command.add_argument("--json", action="store_true", help="print the results as JSON")
    return command


def _add_recipes(commands: Any) -> None:
    summary = "Show the shipped recipes, and check your own."
    parser = commands.add_parser("recipes", help=summary, description=summary)
    parser.set_defaults(module="recipes")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, text, declare in (
        ("list", "Name the shipped recipes, the presets, and say what each means.", _nothing),
        ("show", "Print a shipped recipe, to start one of your own from.", _recipe_name),
        ("validate", "Check recipes; says in which line one cannot be meant.", _recipe_files),
        ("schema", "Print the JSON schema, by which editors complete recipes.", _nothing),
    ):
        _add_command(actions, name, text, declare)


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _recipe_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def _recipe_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.yaml")


def _quantize(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _path(parser, "--calibration", "PATH", f"{_IMAGES_HELP}; needed unless --statistics is given")
    _path(parser, "--statistics", "STATS", "statistics that `calibrate` wrote, in place of images")
    _path(parser, "--output", "OUT.tflite", "the file to write", required=True)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--preset", metavar="NAME", help=f"a shipped recipe ({DEFAULT_PRESET})")
    _path(choice, "--recipe", "FILE.yaml", "a recipe of your own")
    parser.add_argument(
        "--effort",
        choices=EFFORTS,
        help="time to spend on the corrections, in place of what the recipe says (balanced)",
    )
    parser.add_argument(
        "--target", choices=TARGETS, help="kind of file (int8_container where it holds the recipe)"
    )
    parser.add_argument(
        "--io",
        choices=("float32", "int8"),
        default="float32",
        help="type of the file's input and output (float32)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="of packed_int4: INT4 weights where they are accelerated, or wherever they load",
    )
    parser.add_argument(
        "--input-size",
        type=positive_integer,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the file's images, for a model that takes any size (the images' size)",
    )
    parser.add_argument(
        "--dynamic-batch",
        action="store_true",
        help="let the file take any number of images at a time, by resizing its inputs",
    )
    _path(parser, "--plan", "PLAN.json", "also write the plan, layer by layer")
    _path(
        parser,
        "--report",
        "DIR",
        "also write a report, report.html and report.json: what each layer costs, what to try",
    )
    _model_explorer(parser)
    _image_preparation(parser, samples=DEFAULT_SAMPLES)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _path(parser, "--calibration", "PATH", _IMAGES_HELP, required=True)
    _path(parser, "--output", "STATS", "the statistics file to write", required=True)
    _image_preparation(parser, samples=DEFAULT_SAMPLES)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        metavar="MODEL",
        help="Keras models and .tflite files; the first is what the others are compared with",
    )
    _framework(parser)
    _path(
        parser, "--data", "PATH", f"{_IMAGES_HELP}, with labels for the accuracies", required=True
    )
    _threads(parser)
    _image_preparation(parser, samples=None)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A", help="a Keras model or a .tflite file")
    parser.add_argument("second", type=Path, metavar="B", help="the one that is held against it")
    _framework(parser)
    _path(parser, "--data", "PATH", _IMAGES_HELP, required=True)
    parser.add_argument(
        "--threshold",
        type=finite_number,
        default=DEFAULT_THRESHOLD_DB,
        metavar="DB",
        help="a layer with an SQNR below it is where the models part, and the exit code is 1 "
        f"({DEFAULT_THRESHOLD_DB:g})",
    )
    _threads(parser)
    _model_explorer(parser)
    _image_preparation(parser, samples=DEFAULT_SAMPLES)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.tflite")


def _benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE.tflite",
        help="the first is what the others are compared with",
    )
    parser.add_argument(
        "--threads",
        type=thread_counts,
        default=[1],
        metavar="N,N",
        help="numbers of threads, measured one after the other (1)",
    )
    parser.add_argument(
        "--delegate",
        choices=DELEGATES,
        default=DELEGATES[0],
        help=f"LiteRT's default, or LiteRT's own kernels alone ({DELEGATES[0]})",
    )
    parser.add_argument(
        "--rounds",
        type=at_least(2),
        metavar="N",
        help=f"how often each file has its turn: in each process ({HostEffort.rounds}), on a "
        f"device ({DeviceEffort.rounds})",
    )
    parser.add_argument(
        "--processes",
        type=at_least(2),
        metavar="N",
        help=f"how often to begin anew in another process ({HostEffort.processes})",
    )
    group = parser.add_argument_group("Android")
    group.add_argument("--android", action="store_true", help="measure on a device, through adb")
    group.add_argument("--serial", metavar="S", help="which one, as `adb devices` calls it")
    _path(group, "--benchmark-binary", "PATH", "TensorFlow's benchmark_model for the device's ABI")
    group.add_argument(
        "--cool-down",
        type=seconds,
        metavar="SECONDS",
        help=f"pause before each run ({DeviceEffort.cool_down:g})",
    )
    _path(group, "--keep", "FOLDER", "write all that benchmark_model prints there")
    group.add_argument(
        "--validate",
        action="store_true",
        help="also run images on the device and here, and compare the outputs",
    )
    _path(group, "--data", "PATH", f"of --validate: {_IMAGES_HELP} (made-up values)")
    _image_preparation(parser, samples=DEFAULT_VALIDATED)


_IMAGES_HELP = (
    "an .npz or .npy of images (key x, labels y), or a folder of pictures; for several inputs an "
    ".npz with an array for each, under its name"
)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a .keras file; of tf_keras also an .h5 file or the folder of a SavedModel",
    )
    _framework(parser)


def _framework(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        default=FRAMEWORKS[0],
        help="what reads the model, Keras 3 or tf_keras (auto: what wrote it)",
    )


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive_integer, default=2, help="threads of LiteRT (2)")


def _path(
    parser: argparse._ActionsContainer, option: str, metavar: str, text: str, **keywords: Any
) -> None:
    parser.add_argument(option, type=Path, metavar=metavar, help=text, **keywords)


def _model_explorer(parser: argparse.ArgumentParser) -> None:
    text = "also write node data for Model Explorer: bits and errors over the graph of the .tflite"
    _path(parser, "--model-explorer", "DIR", text)


def _image_preparation(parser: argparse.ArgumentParser, *, samples: int | None) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--samples",
        type=positive_integer,
        default=samples,
        metavar="N",
        help=f"how many images, evenly spread over the sorted set ({samples or 'all'})",
    )
    for option, text in (
        ("--resize", "length that the short side gets, in pixels"),
        ("--crop", "side of the centred square that is kept, in pixels"),
    ):
        group.add_argument(option, type=positive_integer, metavar="PIXELS", help=text)
    for option, default in (("--mean", 0.0), ("--std", 1.0)):
        group.add_argument(
            option,
            type=finite_numbers,
            nargs="+",
            action=ChannelValues,
            default=default,
            metavar="VALUE",
            help=f"one number or three, for (pixel - mean) / std ({default:g})",
        )
