"""The shipped presets, one YAML file each that states every field, and reading such files.

    w<W>a<A>          W-bit weights, A-bit activations, one clip per activation tensor: fits every
                      integer target
    ..._strict        signed activations have A bits too
    paper_w<W>a<A>    the setting of arXiv 1810.05723: activations per channel, bits allocated per
                      channel; for the `float_simulated` target only

The weights of the first and the last layer have 8 bits in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tflite_ptq4.errors import ConfigError

_SUFFIX = ".yaml"
SCHEMA_FILE = "recipe.schema.json"


def names() -> tuple[str, ...]:
    """The names of the presets, in alphabetical order."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def text(name: str) -> str:
    """The YAML text of one of `names()`."""
    return resources.files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")


def summary(name: str) -> str:
    """What one of `names()` means: the first line of its comment."""
    return text(name).partition("\n")[0].partition(": ")[2]


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read, its values not checked yet.

    Attributes:
        values: what the YAML holds.
        content: its text.
        path: of its file, None of a text.
        repeated_keys: a problem for each key that is written again in one mapping; `values` holds
            what was written last.
    """

    values: Any
    content: str
    path: str | None
    repeated_keys: tuple[ConfigError, ...]

    def line(self, key: Sequence[str | int]) -> int | None:
        """The line of a value, counted from 1, None of none.

        Args:
            key: names and positions, from the outside to the inside; what is not there is passed
                over.
        """
        return _line(yaml.compose(self.content, Loader=yaml.SafeLoader), key)

    def place(self, key: Sequence[str | int]) -> str:
        """The beginning of a message about the value at `key`: "<path>, line 3: ", "" of a text."""
        if self.path is None:
            return ""
        line = self.line(key)
        return f"{self.path}: " if line is None else f"{self.path}, line {line}: "


def read(source: str | os.PathLike[str]) -> Recipe:
    """Read a YAML text or file.

    Args:
        source: a path object, a string of one line that ends in .yaml or .yml (then a path too),
            or any other string (then the text itself).

    Raises:
        ConfigError: the file cannot be read, or the text is not YAML.
    """
    path, content = None, source
    if not isinstance(source, str) or _is_path(source):
        path = os.fspath(source)
        try:
            content = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: A recipe must be a readable UTF-8 file. Received: {error}. "
                f"Name an existing file, or one of the presets: {', '.join(names())}."
            ) from error
    try:
        loader = _StrictLoader(content)
        values = loader.get_single_data()
    # Beyond YAMLError: an impossible date is a ValueError, endless nesting a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = error if mark is None else f"{error.problem}, in line {mark.line + 1}"
        raise ConfigError(f"{f'{path}: ' if path else ''}{_not_yaml(problem)}") from error
    return Recipe(values, content, path, tuple(loader.repeated))


def _not_yaml(problem: object) -> str:
    return f"A recipe must be valid YAML. Received: {problem}. Correct that line."


def _line(node: yaml.Node | None, key: Sequence[str | int]) -> int | None:
    """The line of the innermost part of a key that is there, counted from 1; None of none."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            found = [(node.value[part], node.value[part])]
        else:
            found = []
        if not found:
            break
        name, node = found[0]
        line = name.start_mark.line + 1
    return line


def _is_path(source: str) -> bool:
    return "\n" not in source and source.lower().endswith((".yaml", ".yml"))


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which by itself lets the later of two equal keys win in silence."""

    def __init__(self, content: str) -> None:
        super().__init__(content)
        self.repeated: list[ConfigError] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; keys that are written again are noted."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                problem = f"the key {key!r} is written twice, in line {line}"
                self.repeated.append(ConfigError(_not_yaml(problem)))
            seen.append(key)
        return super().construct_mapping(node, deep=deep)
