"""How much of this machine other programs used during a measurement, as that makes ratios unreliable."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Columns of the line ``cpu`` in /proc/stat: user, nice, system, interrupts, stolen by the host."""


class OtherPrograms:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._at_s = _busy_s(), _own_s(), time.monotonic()

    def share(self) -> float:
        """The share of processor time since then that neither this process nor its ended children used."""
        elapsed_s = (time.monotonic() - self._at_s) * (os.cpu_count() or 1)
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s / elapsed_s) if elapsed_s else 0.0


def _busy_s() -> float:
    fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in _BUSY_FIELDS) / _TICKS


def _own_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
