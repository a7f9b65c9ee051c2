"""Sections of the README, and whole files, in pages of the site.

A line `--8<-- "README.md:limits"` stands for what lies between `<!-- --8<-- [start:limits] -->` and
its end there, with links as they are from the folder of the pages. In a block of Python it is a
comment, which formatters leave alone.
"""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_INCLUDE = re.compile(r'^(?:# )?--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the text in place of the lines that stand for it; MkDocs calls this for every page."""
    return _INCLUDE.sub(lambda match: _text(match[1], match[2]), markdown)


def _text(path: str, section: str | None) -> str:
    text = (_ROOT / path).read_text(encoding="utf-8")
    if section is None:
        return text.rstrip()
    start, end = (f"<!-- --8<-- [{edge}:{section}] -->\n" for edge in ("start", "end"))
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{path} must have the section {section!r} once, from start to end")
    return text.partition(start)[2].partition(end)[0].rstrip().replace("](docs/", "](")
