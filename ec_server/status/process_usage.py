"""Processor time and memory of a process and its children, read from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Indices of the fields in /proc/PID/stat after the name.
_TIMES, _TIMES_OF_ENDED_CHILDREN = (11, 12), (13, 14)
_PAGES = 21


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Resident memory in bytes and processor time in seconds."""

    resident_bytes: int
    cpu_s: float


def read_usage(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """The usage of one process; None if it is gone or the system has no /proc."""
    fields = _fields(pid, proc)
    return None if fields is None else _usage(fields, _TIMES)


def read_usage_with_children(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """The usage of a process and of those that it started, such as a receiver's writer.

    Processor time of children that have ended is included.
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
    """The fields after the name; index 0 is the state."""
    try:
        # The name in field 2 may contain spaces and brackets: count from the last bracket.
        fields = (proc / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return [0, *(int(field) for field in fields[1 : _PAGES + 1])] if len(fields) > _PAGES else None
    except (OSError, ValueError):
        return None


def _children(pid: int, proc: Path) -> list[int]:
    """Processes that any of its threads started; empty if the kernel does not report them."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in (proc / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text("ascii").split())
    return found
