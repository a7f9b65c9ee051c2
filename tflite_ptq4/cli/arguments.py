"""The arguments of all commands, declared for the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tflite_ptq4.benchmark.effort import DELEGATES, DeviceEffort, HostEffort
from tflite_ptq4.cli.argument_values import (
    at_least,
    averages_of_bits,
    finite_number,
    positive_integer,
    seconds,
    thread_counts,
)
from tflite_ptq4.cli.shared_arguments import (
    IMAGES_HELP,
    add_framework,
    add_image_preparation,
    add_model,
    add_model_explorer,
    add_path,
    add_threads,
)
from tflite_ptq4.config.values import EFFORTS
from tflite_ptq4.targets import LAYOUTS, TARGETS

DEFAULT_PRESET = "w4a8"
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
        (
            "validate",
            "Check recipes; lists what cannot be meant, and in which line.",
            _recipe_files,
        ),
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
    add_model(parser)
    add_path(parser, "--calibration", "PATH", f"{IMAGES_HELP}; needed unless --statistics is given")
    add_path(
        parser, "--statistics", "STATS", "statistics that `calibrate` wrote, in place of images"
    )
    add_path(parser, "--output", "OUT.tflite", "the file to write", required=True)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--preset", metavar="NAME", help=f"a shipped recipe ({DEFAULT_PRESET})")
    add_path(choice, "--recipe", "FILE.yaml", "a recipe of your own")
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
    add_path(parser, "--plan", "PLAN.json", "also write the plan, layer by layer")
    add_path(
        parser,
        "--report",
        "DIR",
        "also write a report, report.html and report.json: what each layer costs, what to try",
    )
    add_path(
        parser,
        "--data",
        "PATH",
        "images to compare the file with the float model on, all of them; with labels for the "
        "accuracies (the calibration images)",
    )
    parser.add_argument(
        "--accuracy-over-bits",
        type=averages_of_bits,
        default=[],
        metavar="N,N",
        help="also quantize with so many bits per weight on average, such as 3,4,5,6,8, and draw "
        "the accuracies in the report; takes labelled images, and as long again for each",
    )
    add_model_explorer(parser)
    add_image_preparation(parser, samples=DEFAULT_SAMPLES)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_path(parser, "--calibration", "PATH", IMAGES_HELP, required=True)
    add_path(parser, "--output", "STATS", "the statistics file to write", required=True)
    add_image_preparation(parser, samples=DEFAULT_SAMPLES)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        metavar="MODEL",
        help="Keras models and .tflite files; the first is what the others are compared with",
    )
    add_framework(parser)
    add_path(
        parser, "--data", "PATH", f"{IMAGES_HELP}, with labels for the accuracies", required=True
    )
    add_threads(parser)
    add_image_preparation(parser, samples=None)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A", help="a Keras model or a .tflite file")
    parser.add_argument("second", type=Path, metavar="B", help="the one that is held against it")
    add_framework(parser)
    add_path(parser, "--data", "PATH", IMAGES_HELP, required=True)
    parser.add_argument(
        "--threshold",
        type=finite_number,
        default=DEFAULT_THRESHOLD_DB,
        metavar="DB",
        help="a layer with an SQNR below it is where the models part, and the exit code is 1 "
        f"({DEFAULT_THRESHOLD_DB:g})",
    )
    add_threads(parser)
    add_model_explorer(parser)
    add_image_preparation(parser, samples=DEFAULT_SAMPLES)


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
    add_path(
        group, "--benchmark-binary", "PATH", "TensorFlow's benchmark_model for the device's ABI"
    )
    group.add_argument(
        "--cool-down",
        type=seconds,
        metavar="SECONDS",
        help=f"pause before each run ({DeviceEffort.cool_down:g})",
    )
    add_path(group, "--keep", "FOLDER", "write all that benchmark_model prints there")
    group.add_argument(
        "--validate",
        action="store_true",
        help="also run images on the device and here, and compare the outputs",
    )
    add_path(group, "--data", "PATH", f"of --validate: {IMAGES_HELP} (made-up values)")
    add_image_preparation(parser, samples=DEFAULT_VALIDATED)
