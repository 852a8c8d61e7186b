"""What a shell can do to a command: closed or full streams, a reader that goes, signals, odd arguments.

Rules:

1. A stream that the shell closed (``>&-``) is one that takes everything and gives nothing.
2. A reader that has seen enough (``| head``) is no error, and changes no exit code.
3. Output that cannot be written is an error, exit code 2: half a report must not pass for a whole one.
4. SIGTERM and Ctrl-C end a command in order, so that it removes what it has begun.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from utilities.errors import OutputError

EXIT_FAULT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def run(command: Callable[[], int]) -> int:
    """Call the command by the rules; its exit code."""
    _provide_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except OutputError as error:
        print(error, file=sys.stderr)
        return EXIT_FAULT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def say(text: str) -> None:
    """Print the result of a command. Raises OutputError where it cannot be written."""
    with output():
        print(text)


@contextmanager
def output() -> Iterator[None]:
    """For what writes to the standard output: afterwards it is written, or its reader has gone.

    Raises OutputError where it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"the output cannot be written: {error.strerror}") from error


def device_id(text: str) -> str:
    """A device id as an argument: any text, with ``\\ufffd`` for what is none: it is unknown then."""
    return os.fsencode(text).decode("utf-8", "replace")


def new_file(text: str) -> Path:
    """An argument that names a file to write: one that does not exist, or a regular one to be replaced."""
    path = Path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} exists and is not a file that can be replaced")
    return path


def _provide_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (for good)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Let what is still in the buffer go nowhere, or the interpreter would fail on it as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)
