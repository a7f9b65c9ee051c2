"""Every network of a test bed through calibration, two presets and two targets, as one table.

    python examples/network_matrix.py                      # all of them, half an hour
    python examples/network_matrix.py MobileNetV2 UNet     # some of them

After each network its figures go into docs/networks.json, and docs/networks.md is written anew from
that file: networks that were not measured this time keep the figures that they had.

The networks have random weights and BatchNormalization statistics from one pass over random images,
at the smallest input size that they take. So the table shows that a network passes, what of it is
held at 4 bits, and how close the file is to the simulated Keras model; it shows no accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from matrix_networks import APPLICATIONS, OTHERS, build, random_images, settle_batch_norm

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DOCS = Path(__file__).resolve().parents[1] / "docs"
PRESETS = ("w4a8", "w4a4")
TARGETS = ("int8_container", "packed_int4")
IMAGES = 16
MOST_DB = 99.0  # what a file that computes the very same is given


def measure(name: str) -> list[dict]:
    """One row for each preset and target."""
    from tflite_ptq4 import Ptq4Error, QuantizationConfig, calibrate, quantize_model
    from tflite_ptq4.numerics.closeness import sqnr_db

    model = build(name)
    images = random_images(model, IMAGES)
    settle_batch_norm(model, images)
    statistics = calibrate(model, images, batch_size=8)
    rows = []
    for preset in PRESETS:
        config = QuantizationConfig.preset(preset)
        quantized = quantize_model(model, statistics, config, images=images)
        simulated = flat(quantized.simulated_model.predict(images, verbose=0))
        facts = {
            "at_4_bits": share_at_4_bits(quantized),
            "in_float": sorted(
                {f"{row.layer_type}: {row.reason}" for row in quantized.report.in_float}
            ),
            "layers_in_float": len(quantized.report.in_float),
            "layers": len(quantized.plan.layers),
        }
        for target in TARGETS:
            row = {"network": name, "preset": preset, "target": target, **facts}
            try:
                data = quantized.to_tflite(target)
                row["bytes"] = len(data)
                for runtime in ("litert", "tensorflow"):
                    row[runtime] = min(MOST_DB, sqnr_db(simulated, run(data, images, runtime)))
            except Ptq4Error as error:
                row["refused"] = str(error)
            rows.append(row)
    return rows


def share_at_4_bits(quantized) -> float:
    """Share of the weights that have at most 4 bits."""
    rows = [row for row in quantized.report.rows if row.weights]
    held = sum(row.weights for row in rows if row.quantized and row.weight_bits <= 4)
    return held / sum(row.weights for row in rows)


def flat(outputs):
    """All outputs of a model side by side, float64 [n, ...]."""
    import keras
    import numpy as np

    leaves = [np.asarray(leaf, np.float64) for leaf in keras.tree.flatten(outputs)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def run(data: bytes, images, runtime: str):
    """Run a file on every image in one of the two interpreters, its outputs side by side."""
    import warnings

    import numpy as np

    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tf.lite.Interpreter announces its end
        interpreter = Interpreter(model_content=data, num_threads=2)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        parts = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        outputs.append(np.concatenate([part.reshape(-1) for part in parts]))
    return np.asarray(outputs, np.float64)


def render(rows: list[dict]) -> str:
    """The table as Markdown."""
    lines = [
        "| network | preset | target | KiB | LiteRT dB | TensorFlow dB | weights at 4 bits | "
        "layers in float |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        head = f"| {row['network']} | {row['preset']} | {row['target']} "
        if "refused" in row:
            lines.append(f"{head}| refused: {row['refused']} |||||")
            continue
        lines.append(
            f"{head}| {row['bytes'] / 1024:.0f} | {row['litert']:.1f} | {row['tensorflow']:.1f} | "
            f"{row['at_4_bits']:.0%} | {row['layers_in_float']} of {row['layers']} |"
        )
        if row["in_float"]:
            reasons[row["network"]] = row["in_float"]
    if reasons:
        lines += ["", "What stays in float, and why:", ""]
        lines += [f"- {network}: {'; '.join(found)}" for network, found in reasons.items()]
    else:
        lines += ["", "No layer stays in float."]
    return "\n".join(lines) + "\n"


def update_page(rows: list[dict], folder: Path) -> None:
    """Put the rows of one network among those of the others, and write the page of all."""
    from tflite_ptq4.atomic_write import write_bytes

    path = folder / "networks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[rows[0]["network"]] = rows
    ordered = {name: known[name] for name in (*APPLICATIONS, *OTHERS) if name in known}
    folder.mkdir(exist_ok=True)
    write_bytes(path, (json.dumps(ordered, indent=1) + "\n").encode())
    page = (
        "# Networks\n\nMade by `python examples/network_matrix.py`: random weights, smallest input "
        "size, outputs of the file against the simulated Keras model in decibels; 99 stands for "
        "equal outputs.\n\n" + render([row for found in ordered.values() for row in found])
    )
    write_bytes(folder / "networks.md", page.encode())


def main() -> int:
    """Measure each network in a process of its own, so that memory does not add up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="names; all of them where none is given")
    parser.add_argument("--json", action="store_true", help="one network: print its rows as JSON")
    arguments = parser.parse_args()
    names = arguments.networks or [*APPLICATIONS, *OTHERS]
    if arguments.json:
        print("ROWS " + json.dumps([row for name in names for row in measure(name)]))
        return 0
    failed = 0
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, name, "--json"], capture_output=True, text=True, check=False
        )
        found = [line[5:] for line in done.stdout.splitlines() if line.startswith("ROWS ")]
        if not found:
            failed += 1
            print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        rows = json.loads(found[0])
        update_page(rows, DOCS)
        print(render(rows), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
