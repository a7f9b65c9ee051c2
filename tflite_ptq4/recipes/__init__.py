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
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tflite_ptq4.errors import ConfigError

_SUFFIX = ".yaml"


def names() -> tuple[str, ...]:
    """The names of the presets, in alphabetical order."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def text(name: str) -> str:
    """The YAML text of one of `names()`."""
    return resources.files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")


def read(source: str | os.PathLike[str]) -> tuple[str, Any]:
    """What a YAML text or file holds.

    Args:
        source: a path object, a string of one line that ends in .yaml or .yml (then a path too),
            or any other string (then the text itself).

    Returns:
        The prefix for messages about it, "<path>: " or "", and the parsed value.

    Raises:
        ConfigError: the file cannot be read, or the text is not YAML or writes a key twice.
    """
    prefix, content = "", source
    if not isinstance(source, str) or _is_path(source):
        prefix = f"{os.fspath(source)}: "
        try:
            content = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{prefix}A recipe must be a readable UTF-8 file. Received: {error}. "
                f"Name an existing file, or one of the presets: {', '.join(names())}."
            ) from error
    try:
        return prefix, yaml.load(content, Loader=_StrictLoader)
    # Beyond YAMLError: an impossible date is a ValueError, endless nesting a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{prefix}A recipe must be valid YAML. Received: {error}. Correct that line."
        ) from error


def _is_path(source: str) -> bool:
    return "\n" not in source and source.lower().endswith((".yaml", ".yml"))


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which by itself lets the later of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node whose keys all differ."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep=deep)
