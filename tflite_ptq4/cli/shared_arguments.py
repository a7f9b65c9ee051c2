"""Arguments that several commands take, each declared once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tflite_ptq4.cli.argument_values import ChannelValues, finite_numbers, positive_integer

FRAMEWORKS = ("auto", "keras", "tf_keras")

IMAGES_HELP = (
    "an .npz or .npy of images (key x, labels y), or a folder of pictures; for several inputs an "
    ".npz with an array for each, under its name"
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the Keras model that a command reads, and what reads it."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a .keras file; of tf_keras also an .h5 file or the folder of a SavedModel",
    )
    add_framework(parser)


def add_framework(parser: argparse.ArgumentParser) -> None:
    """Declare what reads Keras models."""
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        default=FRAMEWORKS[0],
        help="what reads the model, Keras 3 or tf_keras (auto: what wrote it)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Declare the number of LiteRT's threads."""
    parser.add_argument("--threads", type=positive_integer, default=2, help="threads of LiteRT (2)")


def add_path(
    parser: argparse._ActionsContainer, option: str, metavar: str, text: str, **keywords: Any
) -> None:
    """Declare an option that names a file or folder.

    Args:
        parser: of a command, or a group of its arguments.
        option: such as "--output".
        metavar: what stands for the path in the help.
        text: the help.
        **keywords: of `add_argument`.
    """
    parser.add_argument(option, type=Path, metavar=metavar, help=text, **keywords)


def add_model_explorer(parser: argparse.ArgumentParser) -> None:
    """Declare the folder of node data for Model Explorer."""
    text = "also write node data for Model Explorer: bits and errors over the graph of the .tflite"
    add_path(parser, "--model-explorer", "DIR", text)


def add_image_preparation(parser: argparse.ArgumentParser, *, samples: int | None) -> None:
    """Declare how many images are read, and what happens to each.

    Args:
        parser: of a command.
        samples: how many images are read where the user does not say, None for all.
    """
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
