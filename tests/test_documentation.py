"""Every block of code in README and docs runs, or says why not; the site of them builds."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from documented_code import PAGES, ROOT, RUN, Block, blocks, commands, run_page, write_files

from tflite_ptq4.config import QuantizationConfig

WITH_CODE = [
    name
    for name, page in PAGES.items()
    if any(block.language in RUN and block.reason is None for block in blocks(page))
]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, np.random.default_rng(0))
    return folder


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run_page(PAGES[name])


@pytest.mark.parametrize("name", PAGES)
def test_a_block_that_is_not_run_says_why(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    found = blocks(PAGES[name])
    # Each fence opens or closes a block, and each comment stands above one.
    assert len(re.findall("^ *```", text, re.MULTILINE)) == 2 * len(found)
    reasons = [block.reason for block in found if block.reason is not None]
    assert text.count("<!-- not run") == len(reasons)
    assert all(len(reason) > 10 for reason in reasons)


@pytest.mark.parametrize("name", PAGES)
def test_recipes_are_recipes(name: str) -> None:
    for block in blocks(PAGES[name]):
        if block.language == "yaml":
            assert QuantizationConfig.from_yaml(block.text).rules


def test_the_blocks_are_found_as_they_are_written() -> None:
    block = Block("sh", "a b \\\n  'c d'  # e\n\n# f\ng  # exit code 1\n", None)
    assert list(commands(block)) == [(["a", "b", "c d"], 0), (["g"], 1)]


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_no_place_of_one_machine(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    assert not re.findall(r"/(?:home|root|tmp|work|usr/local)/|[\w.]*pythonhosted|localhost", text)


def test_the_sentences_that_are_explained_are_said() -> None:
    page = PAGES["docs/troubleshooting.md"].read_text(encoding="utf-8")
    terms = re.findall(r"^`+ ?(.+?) ?`+\n:   ", page, re.MULTILINE)
    assert len(terms) >= 8
    sources = [*(ROOT / "tflite_ptq4").rglob("*.py"), *(ROOT / "converters").rglob("*.py")]
    said = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for part in (part for term in terms for part in re.split(r"\.\.\.|'", term)):
        if len(part) > 6:
            assert any(part.strip(" ,") in text for text in said), part


class _Links(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("script", "img", "iframe", "link") and values.get("rel") != "canonical":
            self.loaded += [values[key] for key in ("src", "href") if key in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, _Links]]:
    for package in ("mkdocs-material", "mkdocstrings-python"):
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {page: _Links(page) for page in folder.rglob("*.html")}


def test_what_pages_include_is_in_them(site: dict[Path, _Links]) -> None:
    text = {page.name: page.read_text(encoding="utf-8") for page in site}
    assert [name for name, page in text.items() if re.search("--8 ?&lt;|--8 ?<", page)] == []
    assert text["examples.html"].count("__main__") == 5


def test_the_site_has_every_page(site: dict[Path, _Links]) -> None:
    pages = {page.stem for page in site}
    assert {Path(name).stem for name in PAGES if name.startswith("docs/")} | {"404"} == pages


def test_every_link_inside_the_site_leads_somewhere(site: dict[Path, _Links]) -> None:
    broken = []
    for page, parsed in site.items():
        # The page for missing pages is shown at any address, and links from the root.
        for link in parsed.links if page.stem != "404" else ():
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            anchors = site[target].anchors if target in site else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_the_site_loads_nothing_from_elsewhere(site: dict[Path, _Links]) -> None:
    for page, parsed in site.items():
        assert parsed.loaded
        assert [path for path in parsed.loaded if urlsplit(path).netloc] == [], page.name


def test_the_api_has_every_public_name(site: dict[Path, _Links]) -> None:
    import tflite_ptq4

    (api,) = [parsed for page, parsed in site.items() if page.name == "api.html"]
    named = {anchor.rpartition(".")[2] for anchor in api.anchors if anchor.startswith("tflite_")}
    assert set(tflite_ptq4.__all__) <= named
