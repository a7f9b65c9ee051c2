"""What every test relies on: an installed package, one seed, one Hypothesis profile."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest


def pytest_configure() -> None:
    # `converters/` is only importable through the package-dir mapping of an installation.
    if not all(_installed(name) for name in ("tflite_ptq4.converters", "hypothesis")):
        raise pytest.UsageError("run pip install -e '.[test]'")
    from hypothesis import settings

    settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40)
    settings.load_profile("suite")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
