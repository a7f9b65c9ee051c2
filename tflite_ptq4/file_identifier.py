"""The identifier at the beginning of every `.tflite` file, by which other files are refused."""

from __future__ import annotations

from tflite_ptq4.errors import FileFormatError

FILE_IDENTIFIER = b"TFL3"
_PLACE = slice(4, 8)


def has_identifier(content: bytes) -> bool:
    """Whether some bytes are those of a `.tflite` file, as far as their beginning tells."""
    return content[_PLACE] == FILE_IDENTIFIER


def require_identifier(content: bytes, name: str) -> None:
    """Refuse what is no `.tflite` file.

    Args:
        content: of the file.
        name: what messages call it.

    Raises:
        FileFormatError: the identifier is not there.
    """
    if not has_identifier(content):
        raise FileFormatError(
            f"{name} must be a TFLite file, with the identifier {FILE_IDENTIFIER.decode()} at byte "
            f"{_PLACE.start}. Received: {len(content)} bytes that start with {content[:8]!r}. Name "
            "a .tflite file."
        )
