"""The float network as a .tflite file of unconnected operators, and the way around in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class FloatFile:
    """What every target is made of: each operator converted by itself, each tensor to be found.

    Attributes:
        data: the flatbuffer.
        read_keys: for each key among the inputs of the file's signature the tensor that one
            operator reads there, or the user feeds.
        written_keys: for each tensor that an operator writes its key among the outputs.
        input_names: for each input of the graph the name that the user knows it by.
        output_names: the same for each output, in the order of the graph's outputs.
        stand_ins: for each layer whose kernel is not in the file the number that fills its place.
    """

    data: bytes
    read_keys: Mapping[str, str]
    written_keys: Mapping[str, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    stand_ins: Mapping[str, float]
