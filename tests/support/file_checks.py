"""What must hold of every exported file, whatever network it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from exported_networks import Exported
from integer_reference import Reference
from runtimes import computed_tensors, int8_tensors, outputs

from tflite_ptq4.plan import QuantizationPlan

# Float operators that round once, so that any order of computing gives the same.
_ONE_ROUNDING = {"ADD", "SUB", "MUL", "NEG", "ROUND", "MINIMUM", "MAXIMUM", "RELU", "RELU6"}
_ONE_ROUNDING |= {"DEQUANTIZE", "MAX_POOL_2D", "PAD", "RESHAPE", "CONCATENATION", "TRANSPOSE"}
_ONE_ROUNDING |= {"STRIDED_SLICE", "DEPTH_TO_SPACE", "RESIZE_NEAREST_NEIGHBOR", "REDUCE_MAX"}


@dataclass
class Comparison:
    """What was compared with the reference, and what differed, for each kind of operator."""

    tensors: Counter[str] = field(default_factory=Counter)
    elements: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)


def compare_with_reference(
    data: bytes, images: Sequence[np.ndarray], count: int, reference: Reference | None = None
) -> Comparison:
    """Compare every computed tensor of a file in LiteRT with the numpy reference.

    Each operator is computed from what LiteRT gave for its inputs, so that a difference counts
    where it arises and nowhere else; without one, the whole file is equal.

    Args:
        data: the file.
        images: for each input its images.
        count: how many images to run.
        reference: of another file in its place.
    """
    reference, found = reference or Reference(data), Comparison()
    taken = [array[:count] for array in images]
    received = computed_tensors(data, taken)
    for position in range(count):
        one = slice(position, position + 1)
        values = {index: value[one] for index, value in received.items()}
        expected = reference.run_each([array[one] for array in taken], values)
        for index, (name, wanted) in expected.items():
            found.tensors[name] += position == 0
            found.elements[name] += wanted.size
            wrong = _differing(name, values[index], wanted)
            if wrong:
                found.differing[name] += wrong
    return found


def _differing(name: str, received: np.ndarray, wanted: np.ndarray) -> int:
    if wanted.dtype == np.float32 and name not in _ONE_ROUNDING:
        largest = np.abs(wanted).max(initial=0)
        return int((~np.isclose(received, wanted, rtol=1e-5, atol=1e-6 * largest)).sum())
    return int((received != wanted).sum())


def excess_levels(data: bytes, plan: QuantizationPlan, images: Sequence[np.ndarray]) -> list[str]:
    """Planned tensors that take other values at run time than their 2^bits levels.

    A file's int8 tensors are told apart by scale and zero point. Each one is either a planned
    tensor, its levels ending at 127, or the first of a pair, its levels beginning at -128 and
    moved up by a QUANTIZE; only the second of a pair is held to its levels.

    Returns:
        A line for each tensor that is wrong, and for each one that is planned and not there.
    """
    planned: dict[tuple[float, int], tuple[int, int]] = {}
    first_of_pair = set()
    for tensor in plan.tensors.values():
        scale = float(np.float32(tensor.scale[0]))
        top = 127 - int(tensor.upper[0])
        planned[scale, top] = (int(tensor.bits[0]), top + int(tensor.lower[0]))
        first_of_pair.add((scale, -128 - int(tensor.lower[0])))
    values = computed_tensors(data, images)
    wrong, unseen = [], dict(planned)
    for index, key in int8_tensors(data).items():
        if index not in values:
            continue  # an input
        if key in planned:
            unseen.pop(key, None)
            bits, lowest = planned[key]
            taken = np.unique(values[index])
            if len(taken) > 2**bits or taken[0] < lowest:
                wrong.append(
                    f"tensor {index}: {len(taken)} values from {taken[0]}, planned {bits} bits "
                    f"from {lowest}"
                )
        elif key not in first_of_pair:
            wrong.append(f"tensor {index}: scale and zero point {key} are not in the plan")
    return wrong + [f"scale and zero point {key} are planned but not in the file" for key in unseen]


def excess_levels_in_float(
    data: bytes, plan: QuantizationPlan, images: Sequence[np.ndarray]
) -> list[str]:
    """Channels of a `float_simulated` file that take more than their 2^bits values.

    The last step of each rounding is a product with the constant "<planned tensor>/scale".

    Returns:
        A line for each tensor that is wrong, and for each one with a scale of its own that is not
        rounded.
    """
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    values = computed_tensors(data, images)
    wrong, scales = [], set()
    for operator in graph.operators:
        factor = graph.tensors[operator.inputs[-1]]
        name = factor.name.decode()
        if model.buffers[factor.buffer].data is None or not name.endswith("/scale"):
            continue
        tensor = plan.tensors[name.removesuffix("/scale")]
        scales.add(tensor.scale.tobytes())
        taken = values[int(operator.outputs[0])]
        channels = np.broadcast_to(tensor.bits, taken.shape[-1:] if tensor.bits.size > 1 else 1)
        parts = [taken] if tensor.bits.size == 1 else np.moveaxis(taken, -1, 0)
        counts = [len(np.unique(part)) for part in parts]
        if any(count > 2**bits for count, bits in zip(counts, channels, strict=True)):
            wrong.append(f"{tensor.name}: {counts} values, planned {tensor.bits} bits")
    unrounded = [t.name for t in plan.tensors.values() if t.scale.tobytes() not in scales]
    return wrong + [f"{name} is not rounded" for name in unrounded]


def steps_apart(network: Exported, target: str) -> list[np.ndarray]:
    """For each output, how many quantization steps lie between file and simulated model.

    An output that stays in float counts in steps of a hundredth of its largest value, no finer than
    8 bits.
    """
    graph_outputs = network.source().graph.outputs
    apart = []
    received = outputs(network.file(target), network.images)
    for name, values, simulated in zip(
        graph_outputs, received, network.simulated_outputs, strict=True
    ):
        plan = network.quantized.plan.tensors.get(name)
        scale = np.abs(simulated).max() / 100 if plan is None else plan.scale
        apart.append(np.abs(values - simulated) / scale)
    return apart
