"""The code blocks of the documentation, and running them as a reader would, one after the other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
from PIL import Image

from tflite_ptq4.cli import main
from tflite_ptq4.config import QuantizationConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
PYTHON = ("python", "py", "python3")
SHELL = ("sh", "bash", "shell", "console")
RUN = (*PYTHON, *SHELL)
# A page says in a comment above a block why it is not run: `<!-- not run: it needs a phone -->`.
_BLOCK = re.compile(
    r"^(?: *<!-- not run: (?P<reason>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_EXIT_CODE = re.compile(r"#\s*exit code (\d+)")
SIZE = 224  # of the images, so that pages can show the usual `--crop 224`


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands after the fence, "" where nothing does.
        text: the lines between the fences.
        reason: why it is not run, None for one that is.
    """

    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], dedent(match["text"]), match["reason"]) for match in found]


def commands(block: Block) -> Iterator[tuple[list[str], int]]:
    """The commands of a block of the shell, each with its exit code: 0, or `# exit code 1`."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            code = _EXIT_CODE.search(line)
            yield words, int(code[1]) if code else 0


def run_page(page: Path) -> dict[str, object]:
    """Run the blocks of a page in the current folder.

    Returns:
        The names that its Python blocks define.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language not in RUN or block.reason is not None:
            continue
        if block.language in PYTHON:
            exec(compile(block.text, page.name, "exec"), names)
            continue
        for words, expected in commands(block):
            run_command(words, expected)
    return names


def run_command(words: list[str], expected: int) -> None:
    """Run `tflite-ptq4` in this process, its results in a file where `>` says so."""
    program, *arguments = words
    if program != "tflite-ptq4":
        raise AssertionError(f"{program} is not run in tests: say why with `<!-- not run: ... -->`")
    with ExitStack() as stack:
        if ">" in arguments:
            *arguments, _, path = arguments
            stack.enter_context(redirect_stdout(stack.enter_context(open(path, "w"))))
        code = main(arguments)
    assert code == expected, f"{shlex.join(words)} gave exit code {code} and not {expected}"


def write_files(folder: Path, rng: np.random.Generator) -> None:
    """The files that pages name: a network, images as arrays and in folders, and a recipe."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(8, 8, strides=8, activation="relu", name="conv1"),
            layers.DepthwiseConv2D(3, strides=2, activation="relu", name="block_1_depthwise"),
            layers.Conv2D(16, 1, activation="relu", name="block_1_project"),
            layers.Conv2D(16, 3, activation="relu", name="block_12_conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, name="logits", bias_initializer="ones"),
        ]
    )
    model.save(folder / "model.keras")
    (folder / "mine.yaml").write_text(QuantizationConfig.preset("w4a8").to_yaml())
    images = rng.normal(size=(8, SIZE, SIZE, 3)).astype(np.float32)
    np.save(folder / "images.npy", images)
    np.savez(folder / "images.npz", x=images, y=rng.integers(0, 3, 8))
    for name in ("photos", "validation"):
        for i in range(6):
            path = folder / name / f"class_{i % 3}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((32, 32, 1)))
            Image.fromarray(smooth.astype(np.uint8)).save(path)
