"""The export targets and the choices that go with them, by the names that users write."""

from __future__ import annotations

TARGETS = ("float_simulated", "int8_container", "packed_int4")

IO_TYPES = ("float32", "int8")

LAYOUTS = ("fast", "smallest")

METADATA_NAME = "tflite_ptq4"  # of the metadata entry of a file that says how it was made
