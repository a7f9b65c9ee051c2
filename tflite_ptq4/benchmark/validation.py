"""Whether a device computes what this machine computes: outputs held together integer by integer.

XNNPACK and LiteRT's own kernels round otherwise on ARM than on x86 in places, so the outputs of one
file may differ by a step. An output in real numbers that ends in a DEQUANTIZE is compared as the
integers that it stands for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.benchmark.device_folder import DeviceFolder
from tflite_ptq4.benchmark.device_run import BenchmarkTool
from tflite_ptq4.benchmark.interpreters import set_inputs
from tflite_ptq4.errors import DeviceError
from tflite_ptq4.tflite_fields import indices, operator_name, scale_and_zero_point

_OUTPUT = "output.bin"
_SECONDS = 300.0


@dataclass(frozen=True)
class OutputAgreement:
    """One output of a file, as a device and this machine have computed it.

    Attributes:
        file: its name.
        output: name of the output tensor.
        images: how many inputs were run.
        values: how many numbers were compared.
        different: how many of them are not equal.
        largest: the largest difference, in integer steps where `in_steps`, else in the output's
            own unit.
        in_steps: whether the output is one of integers, or stands for them.
        same_class: share of the images in which the largest value is in one place in both.
    """

    file: str
    output: str
    images: int
    values: int
    different: int
    largest: float
    in_steps: bool
    same_class: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def agreement_of(
    file: str,
    output: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    step: float | None = None,
) -> OutputAgreement:
    """Compare an output of two runs.

    Args:
        file: name of the file.
        output: name of the output.
        ours, theirs: numbers of one type, [images, ...].
        step: scale of the integers that real numbers stand for.
    """
    in_steps = step is not None or ours.dtype.kind in "iu"
    first, second = ours, theirs
    if step is not None:
        first, second = (np.rint(values / step) for values in (ours, theirs))
    different = ~(first == second)
    distance = np.abs(first[different].astype(np.float64) - second[different])
    flat = [values.reshape(len(values), -1).argmax(axis=1) for values in (ours, theirs)]
    return OutputAgreement(
        file=file,
        output=output,
        images=len(ours),
        values=ours.size,
        different=int(np.count_nonzero(different)),
        largest=float(distance.max(initial=0.0)),
        in_steps=in_steps,
        same_class=float(np.mean(flat[0] == flat[1])),
    )


def steps_of_outputs(content: bytes) -> dict[int, float]:
    """Return the scale of the integers that real outputs stand for, by tensor."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    found = {}
    for operator in graph.operators:
        (output, *_), (source, *_) = indices(operator.outputs), indices(operator.inputs)
        if operator_name(model, operator) == "DEQUANTIZE" and output in indices(graph.outputs):
            record = scale_and_zero_point(graph.tensors[source])
            if record is not None and len(record[0]) == 1:
                found[output] = float(record[0][0])
    return found


def validate(
    file: Path,
    interpreter: Any,
    tool: BenchmarkTool,
    folder: DeviceFolder,
    model: str,
    inputs: Iterable[Sequence[np.ndarray]],
) -> list[OutputAgreement]:
    """Run inputs here and on a device, and compare every output.

    Args:
        file: the `.tflite` file.
        interpreter: of it, on this machine.
        tool: what runs it on the device.
        folder: where it is there.
        model: its path there.
        inputs: for each image the values of every input, as the file stores them.

    Returns:
        One for each output.

    Raises:
        DeviceError: the device is lost, or the tool fails or writes no outputs.
    """
    details = interpreter.get_output_details()
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in details]
    for values in inputs:
        set_inputs(interpreter, values)
        interpreter.invoke()
        ours = [interpreter.get_tensor(detail["index"]) for detail in details]
        theirs = _on_device(tool, folder, model, values, ours)
        for found, pair in zip(pairs, zip(ours, theirs, strict=True), strict=True):
            found.append(pair)
    steps = steps_of_outputs(file.read_bytes())
    return [
        agreement_of(
            str(file),
            detail["name"],
            np.concatenate([ours for ours, _ in found]),
            np.concatenate([theirs for _, theirs in found]),
            steps.get(detail["index"]),
        )
        for detail, found in zip(details, pairs, strict=True)
    ]


def _on_device(
    tool: BenchmarkTool,
    folder: DeviceFolder,
    model: str,
    values: Sequence[np.ndarray],
    like: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """The outputs on the device, in the shapes and types of `like`."""
    # The tool takes inputs by their order; the names are only what its flags call them.
    names = [f"input_{index}" for index in range(len(values))]
    with tempfile.TemporaryDirectory() as place:
        paths = []
        for name, value in zip(names, values, strict=True):
            source = Path(place) / f"{name}.bin"
            source.write_bytes(np.ascontiguousarray(value).tobytes())
            paths.append(folder.push(source, source.name))
        shapes = ":".join(",".join(map(str, value.shape)) for value in values)
        files = ",".join(f"{name}:{path}" for name, path in zip(names, paths, strict=True))
        folder.remove(_OUTPUT)
        tool.run(
            model,
            "--num_threads=1",
            "--warmup_runs=1",
            "--warmup_min_secs=0",
            "--num_runs=1",
            "--min_secs=0",
            f"--input_layer={','.join(names)}",
            f"--input_layer_shape={shapes}",
            f"--input_layer_value_files={files}",
            f"--output_filepath={folder.path}/{_OUTPUT}",
            seconds=_SECONDS,
        )
        target = Path(place) / _OUTPUT
        folder.pull(_OUTPUT, target)
        content = target.read_bytes()
    expected = sum(array.nbytes for array in like)
    if len(content) != expected:
        raise DeviceError(
            f"The device must write {expected} bytes of outputs, but has written {len(content)}. "
            "Take the current benchmark_model."
        )
    outputs, start = [], 0
    for array in like:
        part = content[start : start + array.nbytes]
        outputs.append(np.frombuffer(part, array.dtype).reshape(array.shape))
        start += array.nbytes
    return outputs
