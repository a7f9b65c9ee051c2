"""The command `tflite-ptq4`: parsing here, one module per sub-command, loaded when it is called."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from tflite_ptq4.cli.arguments import Parser, add_arguments
from tflite_ptq4.cli.standard_streams import (
    drop_output,
    flush_what_can_be,
    is_full,
    open_closed_streams,
)
from tflite_ptq4.errors import Ptq4Error

EXIT_OK = 0
EXIT_DIFFERENT = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name, None for those of the process.

    Returns:
        The exit code: 0; 1 where `compare` finds that two models part; 2 for input that is refused
        with a sentence on stderr, or where stdout or stderr lies on a full disk; 130 after Ctrl-C;
        141 after a closed pipe. Any other exception is a bug and keeps its traceback.
    """
    parser = Parser(
        prog="tflite-ptq4",
        description="4-bit post-training quantization of Keras conv nets for TensorFlow Lite.",
    )
    add_arguments(parser)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or EXIT_OK)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except Ptq4Error as error:
        print(f"tflite-ptq4: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough.
        drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if not is_full(error):
            raise
        drop_output()
        with contextlib.suppress(OSError):
            print(
                f"tflite-ptq4: stdout, stderr and temporary files must have space. Received: "
                f"{error.strerror}. Free some, or send them elsewhere.",
                file=sys.stderr,
            )
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("tflite-ptq4: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return code


def entry_point() -> None:
    """Run the console script and hand its code to the shell."""
    open_closed_streams()
    code = main()
    if code == EXIT_INTERRUPTED:
        # After a second Ctrl-C a thread may still be within TensorFlow, which aborts the process if
        # Python is taken down beside it.
        flush_what_can_be()
        os._exit(code)
    sys.exit(code)


def _run(arguments: argparse.Namespace) -> int:
    code = importlib.import_module(f"tflite_ptq4.cli.{arguments.module}").run(arguments)
    return EXIT_OK if code is None else code
