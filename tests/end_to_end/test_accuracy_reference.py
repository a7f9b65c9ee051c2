"""The accuracy of a trained network, where one is at hand, against docs/results.json."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TFLITE_PTQ4_SHARED", ROOT.parent / "shared"))
MODEL = SHARED / "models" / "cifar10_resnet20.keras"


@pytest.mark.skipif(
    not MODEL.exists(), reason="needs a trained network and images beside the project"
)
def test_no_figure_of_resnet20_has_moved() -> None:
    """Two presets on 5,000 images; the tolerance is what the number of images justifies."""
    found = subprocess.run(
        [
            *(sys.executable, ROOT / "examples" / "measure_accuracy.py", MODEL),
            *("--calibration", SHARED / "data" / "cifar10_calib.npz", "--samples", "64"),
            *("--data", SHARED / "data" / "cifar10_test_a.npz"),
            *("--mean", "123.675", "116.28", "103.53", "--std", "58.395", "57.12", "57.375"),
            *("--cases", "w4a8", "w4a4"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "Nothing moved."), found.stderr
