"""Exit codes that say why a process ended; pure."""

from __future__ import annotations

import signal

EXIT_FAILED = 1
"""An error, perhaps temporary: the process is started again."""
EXIT_CONFIGURATION = 2
"""The configuration is wrong: another start would fail as well."""
EXIT_CANNOT_BOOT = 78
"""Something that the process needs is unavailable (a port, a file): not restarted during the start."""


def text_of(code: int) -> str:
    """How a process ended; ``code`` is its exit code, or the negative number of the signal that killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
