"""Processor time and memory of a process and its children, read from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# In the fields of /proc/PID/stat behind the name.
_TIMES, _TIMES_OF_ENDED_CHILDREN = (11, 12), (13, 14)
_PAGES = 21


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Resident memory in bytes, processor time in seconds."""

    resident_bytes: int
    cpu_s: float


def read_usage(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """One process's use, or None if it is gone or the system has no /proc."""
    fields = _fields(pid, proc)
    return None if fields is None else _usage(fields, _TIMES)


def read_usage_with_children(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """The same with the processes that it started: a receiver's writer is one.

    Processor time counts on when a child has ended and another one was started.
    """
    fields = _fields(pid, proc)
    if fields is None:
        return None
    usage = _usage(fields, _TIMES + _TIMES_OF_ENDED_CHILDREN)
    for child in _children(pid, proc):
        of_child = read_usage(child, proc)
        if of_child is not None:
            usage = ProcessUsage(usage.resident_bytes + of_child.resident_bytes, usage.cpu_s + of_child.cpu_s)
    return usage


def _usage(fields: list[int], times: tuple[int, ...]) -> ProcessUsage:
    return ProcessUsage(fields[_PAGES] * _PAGE_BYTES, sum(fields[i] for i in times) / _TICKS)


def _fields(pid: int, proc: Path) -> list[int] | None:
    """The fields behind the name; that of the state is 0."""
    try:
        # The name in field 2 may hold spaces and brackets: count from its last bracket.
        fields = (proc / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return [0, *(int(field) for field in fields[1 : _PAGES + 1])] if len(fields) > _PAGES else None
    except (OSError, ValueError):
        return None


def _children(pid: int, proc: Path) -> list[int]:
    """Processes that any thread of it started; none where the kernel does not tell."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in (proc / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text("ascii").split())
    return found
