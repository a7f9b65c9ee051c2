"""What must hold of every exported file, whatever network it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from exported_networks import Exported
from integer_reference import run_reference
from runtimes import computed_tensors, int8_tensors, outputs

from tflite_ptq4.plan import QuantizationPlan


def reference_mismatches(
    data: bytes, images: Sequence[np.ndarray], count: int
) -> tuple[int, dict[int, int]]:
    """Compare every computed tensor of a file in LiteRT with the numpy integer reference.

    Args:
        data: an integer file.
        images: for each input its images.
        count: how many images to run.

    Returns:
        The number of elements compared, and for each tensor with a difference how many differ.
    """
    compared, differing = 0, {}
    taken = [array[:count] for array in images]
    received = computed_tensors(data, taken)
    for position in range(count):
        expected = run_reference(data, [array[position : position + 1] for array in taken])
        for index, values in received.items():
            value = values[position : position + 1]
            if value.dtype == np.float32:  # a float operator may sum in another order
                same = np.isclose(value, expected[index], rtol=1e-5, atol=1e-6)
            else:
                same = value == expected[index]
            wrong = int((~same).sum())
            compared += expected[index].size
            if wrong:
                differing[index] = differing.get(index, 0) + wrong
    return compared, differing


def excess_levels(data: bytes, plan: QuantizationPlan, images: Sequence[np.ndarray]) -> list[str]:
    """Planned tensors that take other values at run time than their 2^bits levels.

    A file's int8 tensors are told apart by scale and zero point. Each one is either a planned
    tensor, its levels ending at 127, or the first of a pair, its levels beginning at -128 and
    moved up by a QUANTIZE; only the second of a pair is held to its levels.

    Returns:
        A line for each tensor that is wrong.
    """
    planned: dict[tuple[float, int], tuple[int, int]] = {}
    first_of_pair = set()
    for tensor in plan.tensors.values():
        scale = float(np.float32(tensor.scale[0]))
        top = 127 - int(tensor.upper[0])
        planned[scale, top] = (int(tensor.bits[0]), top + int(tensor.lower[0]))
        first_of_pair.add((scale, -128 - int(tensor.lower[0])))
    values = computed_tensors(data, images)
    wrong = []
    for index, key in int8_tensors(data).items():
        if index not in values:
            continue  # an input
        if key in planned:
            bits, lowest = planned[key]
            taken = np.unique(values[index])
            if len(taken) > 2**bits or taken[0] < lowest:
                wrong.append(
                    f"tensor {index}: {len(taken)} values from {taken[0]}, planned {bits} bits "
                    f"from {lowest}"
                )
        elif key not in first_of_pair:
            wrong.append(f"tensor {index}: scale and zero point {key} are not in the plan")
    return wrong


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
