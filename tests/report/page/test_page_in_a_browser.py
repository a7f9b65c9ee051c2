"""The page in Chromium: it fits, whatever the names are, and its script does what it is for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from report_samples import in_float, report, row

from tflite_ptq4.report.page import render_page
from tflite_ptq4.report.values import Outcome
from tflite_ptq4.sensitivity import Sensitivity

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --hide-scrollbars"
    " --virtual-time-budget=5000 --enable-logging=stderr --dump-dom"
)
SCRIPT = "<script>alert(1)</script>"
LONG = "backbone/" + "a_very_long_block_name_" * 8 + "conv"
WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push(event.blockedURI));
window.alert = () => problems.push("alert");
</script>"""
MEASURE = """<script>{
const root = document.documentElement, all = [...document.querySelectorAll("main *")];
const beyond = (element) => element.getBoundingClientRect().right > root.clientWidth + 1 &&
  !element.closest("thead, svg");
const numbers = () => [...document.querySelectorAll("#layers tbody tr:not([hidden])")].map(
  (row) => Number(row.dataset.number));
const found = {
  problems, width: innerWidth, clientWidth: root.clientWidth, scrollWidth: root.scrollWidth,
  beyond: all.filter(beyond).map((element) => element.outerHTML.slice(0, 80)),
  text: document.querySelector("main").innerText,
  scripts: document.querySelectorAll("main script").length,
  svgs: [...document.querySelectorAll("#worst svg, #depth svg")].map(
    (svg) => svg.getBoundingClientRect().width),
  paper: getComputedStyle(document.body).backgroundColor,
  before: numbers(),
};
const field = document.querySelector(".filter input");
field.value = "ALERT(";
field.dispatchEvent(new Event("input"));
found.filtered = numbers();
field.value = "";
field.dispatchEvent(new Event("input"));
const share = document.querySelector("th.share");
share.click();
found.sorted = numbers().slice(0, 3);
share.click();
found.turned = numbers();
parent.postMessage(JSON.stringify(found), "*");
}</script>"""
# A window has a least width, a frame has none.
FRAME = """<!doctype html><pre id="measured"></pre><script>
addEventListener("message", (event) => {
  document.getElementById("measured").textContent = event.data;
});
</script><iframe src="report.html" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def page_of_many_layers() -> str:
    costs = {1: 0.01, 2: 0.03, 3: 0.02}
    names = {1: SCRIPT, 2: LONG}
    rows = [
        row(
            names.get(number, f"layer_{number}"),
            sensitivity=Sensitivity(costs.get(number, 1e-6 * number), 1e-7),
        )
        for number in range(1, 300)
    ]
    made = report(*rows, in_float("x" * 150, "y" * 150), model=LONG, config="z" * 300)
    outcome = Outcome(bytes=10**9, images=10**6, agreement=1.0, top1=0.5, float_top1=0.6)
    return render_page(made, outcome)


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (390, True)], ids=["a desk, light", "a telephone, dark"]
)
def test_the_page_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    page = page_of_many_layers().replace("<head>", "<head>" + WATCH, 1)
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % width, encoding="utf-8")
    size = ["--window-size=1400,1000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *FLAGS.split(), *size, *scheme, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    (measured,) = re.findall(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    found = json.loads(unescape(measured))
    assert found["width"] == width
    assert found["problems"] == []
    assert found["beyond"] == []
    assert found["scrollWidth"] <= found["clientWidth"]
    assert min(found["svgs"]) > 150
    # A name stays text.
    assert SCRIPT in found["text"] and LONG in found["text"]
    assert found["scripts"] == 0
    dark_paper = max(map(int, re.findall(r"\d+", found["paper"])[:3])) < 128
    assert dark_paper == dark
    # Filtered by name; sorted by share, the greatest first, rows without one always last.
    assert found["before"] == list(range(1, 301))
    assert found["filtered"] == [1]
    assert found["sorted"] == [2, 3, 1]
    assert found["turned"][-4:] == [1, 3, 2, 300]
