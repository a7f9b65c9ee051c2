"""Imports point downwards only, and the numeric core never meets Keras or TensorFlow."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert"}

# The longest prefix decides; a module not listed is on layer OTHER: nothing below may import it.
# Modules of one layer may import each other, SEPARATE ones may not.
LAYERS = {
    "tflite_ptq4.errors": 0,
    "tflite_ptq4.atomic_write": 0,
    "tflite_ptq4.progress": 0,
    "tflite_ptq4.numerics": 1,
    "tflite_ptq4.stats": 1,
    "tflite_ptq4.config": 2,
    "tflite_ptq4.recipes": 2,
    "tflite_ptq4.planning.clipping": 2,
    "tflite_ptq4.operator_rules": 3,
    "tflite_ptq4.file_identifier": 3,
    "tflite_ptq4.float_file": 3,
    "tflite_ptq4.graph": 3,
    "tflite_ptq4.image_count": 3,
    "tflite_ptq4.image_variations": 3,
    "tflite_ptq4.input_arrays": 3,
    "tflite_ptq4.input_shapes": 3,
    "tflite_ptq4.targets": 3,
    "tflite_ptq4.text_table": 3,
    "tflite_ptq4.plan": 3,
    "tflite_ptq4.weights": 3,
    "tflite_ptq4.planning": 3,
    "tflite_ptq4.sensitivity": 3,
    "tflite_ptq4.keras_side": 4,
    "tflite_ptq4.converters": 4,
    "tflite_ptq4.tflite_fields": 4,
    "tflite_ptq4.pipeline": 6,
    "tflite_ptq4.quantization_monitor": 6,
    "tflite_ptq4.tensorboard_summaries": 6,
    "tflite_ptq4.tfmot": 6,
    "tflite_ptq4.cli": 6,
    "tflite_ptq4.__main__": 6,
}
CORE, OTHER, TOP = 3, 5, 6
SEPARATE = ("tflite_ptq4.keras_side", "tflite_ptq4.converters")


def _modules() -> dict[str, Path]:
    found = {}
    for top, folder in (("tflite_ptq4", "tflite_ptq4"), ("tflite_ptq4.converters", "converters")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((top, *parts))] = path
    return found


MODULES = _modules()


def layer(module: str) -> int:
    if module == "tflite_ptq4":
        return TOP
    prefixes = [p for p in LAYERS if module == p or module.startswith(p + ".")]
    return LAYERS[max(prefixes, key=len)] if prefixes else OTHER


def imports(source: str, module: str, *, is_package: bool) -> set[str]:
    """Every module that the source imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [base])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in MODULES else base)
    return found


def violations(module: str, imported: set[str]) -> list[str]:
    found = []
    own = layer(module)
    for name in sorted(imported):
        if name.split(".")[0] in HEAVY and own <= CORE:
            found.append(f"{module} (core) imports {name}")
        if name.split(".")[0] != "tflite_ptq4":
            continue
        other = layer(name)
        if other > own:
            found.append(f"{module} (layer {own}) imports {name} (layer {other})")
        for here, there in (SEPARATE, SEPARATE[::-1]):
            if module.startswith(here) and name.startswith(there):
                found.append(f"{module} imports {name}")
    return found


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("tflite_ptq4.numerics.grid", "from tflite_ptq4.errors import ConfigError", 0),
        ("tflite_ptq4.numerics.grid", "import tflite_ptq4.config", 1),
        ("tflite_ptq4.numerics.grid", "from tflite_ptq4 import config", 1),
        ("tflite_ptq4.numerics.grid", "from ..config import QuantizationConfig", 1),
        ("tflite_ptq4.numerics.grid", "from . import affine", 0),
        ("tflite_ptq4.numerics.grid", "import scipy.optimize", 0),
        ("tflite_ptq4.config", "from tflite_ptq4.plan import QuantizationPlan", 1),
        ("tflite_ptq4.plan", "def f():\n    from keras import ops", 1),
        ("tflite_ptq4.keras_side.trace", "import keras", 0),
        ("tflite_ptq4.keras_side.trace", "from tflite_ptq4 import converters", 1),
        ("tflite_ptq4.converters.schema", "from tflite_ptq4.keras_side.trace import Run", 1),
        ("tflite_ptq4.errors", "import tflite_ptq4", 1),
        ("tflite_ptq4.graph", "from tflite_ptq4.not_listed import thing", 1),
        ("tflite_ptq4", "from tflite_ptq4.pipeline import quantize_model", 0),
    ],
)
def test_the_check_itself(module: str, source: str, expected: int) -> None:
    assert len(violations(module, imports(source, module, is_package=False))) == expected


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    return imports(source, module, is_package=path.name == "__init__.py")


def circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """For types alone, or inside of a function, neither."""
    # A package's name stands for what its `__init__` offers of its modules.
    offers = {"tflite_ptq4"}
    arrows = {
        module: {name for name in imports_of(module) if name in MODULES and name not in offers}
        for module in MODULES
    }
    assert circle(arrows) == []
    assert len(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == 4


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    assert violations(module, imports_of(module)) == []


def heavy_after_importing(modules: list[str]) -> list[str]:
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_package_loads_without_keras_and_tensorflow() -> None:
    assert heavy_after_importing(["tflite_ptq4"]) == []


def test_the_numeric_core_loads_without_keras_and_tensorflow() -> None:
    core = [name for name in MODULES if layer(name) <= CORE]
    assert {"tflite_ptq4.errors", "tflite_ptq4.config"} <= set(core)
    assert heavy_after_importing(core) == []
