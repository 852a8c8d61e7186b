"""What one process uses, read from /proc by its id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Resident memory in bytes, processor time in seconds, threads."""

    resident_bytes: int
    cpu_s: float
    threads: int


def read_usage(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """The process's use, or None where it is gone or the system has no /proc."""
    try:
        # The name in field 2 may hold spaces and brackets: count from its last bracket.
        fields = (proc / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
        user, system, threads, pages = (int(fields[i]) for i in (11, 12, 17, 21))
    except (OSError, ValueError, IndexError):
        return None
    return ProcessUsage(pages * _PAGE_BYTES, (user + system) / _TICKS, threads)
