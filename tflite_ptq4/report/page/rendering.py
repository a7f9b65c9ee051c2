"""The page from its template: everything that comes from a model is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tflite_ptq4.report.facts import ReportFacts
from tflite_ptq4.report.page.content import page_content
from tflite_ptq4.report.values import Outcome


def render_page(report: ReportFacts, outcome: Outcome) -> str:
    """The whole page.

    Args:
        report: what quantization did.
        outcome: size, accuracy and time, as far as they were measured.

    Returns:
        HTML, the same for equal arguments.
    """
    return _template().render(
        page_content(report, outcome),
        css=Markup(_source("page.css")),
        js=Markup(_source("page.js")),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(_source("page.html"))


def _source(name: str) -> str:
    return files("tflite_ptq4.report.page").joinpath(name).read_text(encoding="utf-8")
