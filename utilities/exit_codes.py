"""The exit codes with which processes report why they ended; pure."""

from __future__ import annotations

import signal

EXIT_FAILED = 1
"""A fault, or something that passes: started again."""
EXIT_CONFIGURATION = 2
"""The configuration is wrong: another start would fail in the same way."""
EXIT_CANNOT_BOOT = 78
"""Something that the process needs cannot be had (a port, a file): not started again at the start."""


def text_of(code: int) -> str:
    """How a process ended, from its exit code, or minus the number of the signal that killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
