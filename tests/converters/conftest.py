"""What the converters write from, in the tests of more than one module."""

from __future__ import annotations

import pytest
from exported_networks import exported

from tflite_ptq4.converters import ExportSource


@pytest.fixture(scope="module")
def source() -> ExportSource:
    return exported("residual", "w4a8").source()


@pytest.fixture(scope="module")
def per_channel_source() -> ExportSource:
    return exported("residual", "paper_w4a4").source()
