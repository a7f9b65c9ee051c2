"""The export targets that can be written today."""

from __future__ import annotations

TARGETS = ("float_simulated", "int8_container")
