"""The exceptions that this package raises on purpose.

    Ptq4Error
    ├── ConfigError       (ValueError)  a configuration, recipe or input size that cannot be meant
    ├── DataError         (ValueError)  images that cannot be used: empty, NaN, of a wrong shape
    ├── StatisticsError   (ValueError)  calibration statistics that do not fit, or hold NaN or Inf
    ├── ModelError        (ValueError)  a Keras model that cannot be read or has nothing to quantize
    ├── TargetError       (ValueError)  a plan that an export target cannot hold
    ├── FileFormatError   (ValueError)  a file of another format than it should be, or corrupt
    ├── OutputError       (OSError)     a result that could not be written
    ├── DeviceError       (RuntimeError) an Android device that cannot be used, or was lost
    └── ReadbackError     (RuntimeError) a written file that does not hold what the plan says

Every message says what must hold, which layer or argument it is about, what was received, and what
to do next. The command line prints the message on stderr and exits with code 2.
"""

from __future__ import annotations


class Ptq4Error(Exception):
    """Parent of every error that this package raises on purpose."""


class ConfigError(Ptq4Error, ValueError):
    """A configuration, preset, recipe or input size that cannot be meant.

    Args:
        message: the sentences.
        key: of a recipe, where the value stands: names of fields and positions in lists, from the
            outside to the inside; empty where it is no single place.
    """

    def __init__(self, message: str, key: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


class DataError(Ptq4Error, ValueError):
    """Images that cannot be used: empty, not finite, of the wrong shape, unreadable."""


class StatisticsError(Ptq4Error, ValueError):
    """Calibration statistics that do not fit the model, or hold values that are not finite."""


class ModelError(Ptq4Error, ValueError):
    """A Keras model that cannot be read, or in which there is nothing to quantize."""


class TargetError(Ptq4Error, ValueError):
    """A plan that an export target cannot hold."""


class FileFormatError(Ptq4Error, ValueError):
    """A file that is not of the format that it should have, or is corrupt."""


class OutputError(Ptq4Error, OSError):
    """A result that could not be written."""


class DeviceError(Ptq4Error, RuntimeError):
    """An Android device, or the way to it, that cannot be used or was lost."""


class ReadbackError(Ptq4Error, RuntimeError):
    """A written file that does not hold what the plan says."""


def one_line(error: Exception) -> str:
    """What an exception of another library says, in one line, as a part of our sentence."""
    return " ".join(str(error).split())
