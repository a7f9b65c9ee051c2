"""What lies in a `.tflite` file, whoever wrote it: operators, bytes, and the bits really used."""

from __future__ import annotations

from tflite_ptq4.file_inspection.file_report import (
    ActivationTensor,
    FileReport,
    Signature,
    inspect_file,
)

__all__ = ["ActivationTensor", "FileReport", "Signature", "inspect_file"]
