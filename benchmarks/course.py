"""Records a program's figures and memory over the time of a measurement."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.storing_program import StoringProgram

_INTERVAL_S = 0.01
_MEMORY_EVERY = 8


@dataclass(frozen=True, slots=True)
class Moment:
    """One observation of a program."""

    at_s: float
    """``time.monotonic``."""
    received: int
    settled: int
    """Batches stored or duplicate."""
    queued: int
    memory_mb: float
    """Measured less often than the rest."""


class Course:
    """Observes a program every few milliseconds while the context lasts."""

    def __init__(self, program: StoringProgram) -> None:
        self.moments: list[Moment] = []
        self._program, self._memory_mb = program, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def goodput(self, from_s: float, to_s: float) -> float:
        """Batches committed per second within ``[from_s, to_s]`` after the first message arrived.

        Measured from commit to commit, so that it does not depend on where in a transaction the ends lie.
        """
        began = self.began()
        commits = [
            now
            for before, now in zip(self.moments, self.moments[1:])
            if now.settled > before.settled and from_s <= now.at_s - began <= to_s
        ]
        if len(commits) < 2:
            return 0.0
        first, last = commits[0], commits[-1]
        return (last.settled - first.settled) / (last.at_s - first.at_s)

    def began(self) -> float:
        """When the first message arrived."""
        first = self.moments[0].received
        return next((m.at_s for m in self.moments if m.received > first), self.moments[-1].at_s)

    def settled_at(self) -> float:
        """When the last batch was committed."""
        last = self.moments[-1].settled
        return next(m.at_s for m in self.moments if m.settled == last)

    def peak_mb(self) -> float:
        """The highest observed memory use."""
        return max(moment.memory_mb for moment in self.moments)

    def most_queued(self) -> int:
        """The longest observed queue."""
        return max(moment.queued for moment in self.moments)

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            self._look()
        self._look()

    def _look(self) -> None:
        program, now = self._program, time.monotonic()
        figures = program.figures()
        settled = figures["stored"] + figures["duplicate"]
        if len(self.moments) % _MEMORY_EVERY == 0:
            self._memory_mb = program.memory_mb()
        self.moments.append(Moment(now, figures["received"], settled, program.queued(), self._memory_mb))
