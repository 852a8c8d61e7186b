"""Looks at health and the account, and at what is called proven, all through a run, in two threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from system.faults.subject import Subject, Violation

INTERVAL_S = 0.25
PARTS = (
    "ec_batches_stored_total",
    "ec_batches_duplicate_total",
    "ec_messages_rejected_total",
    "ec_queue_batches",
    "ec_spool_batches",
    "ec_batches_lost_total",
)
RECEIVED = "ec_messages_received_total"
NEVER_FALL = (RECEIVED, *PARTS[:3], "ec_batches_lost_total", "ec_sync_rounds_total")


@dataclass(frozen=True, slots=True)
class Look:
    """What the status port said at one moment."""

    at_s: float
    """Monotonic."""
    healthy: bool | None
    """None: no answer."""
    reasons: str = ""


def figures_of(text: str) -> Counter[str]:
    """The metrics of a scrape, each summed over its labels."""
    sums: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            sums[name.partition("{")[0]] += int(float(value))
    return sums


def check_account(figures: Counter[str]) -> None:
    """Received = stored + duplicate + rejected + queued + spooled + lost, to the unit."""
    parts = {name: figures[name] for name in PARTS}
    if figures[RECEIVED] != sum(parts.values()):
        raise Violation("account", f"received {figures[RECEIVED]} is not the sum of {parts}")
    if min(parts.values()) < 0:
        raise Violation("account", f"less than nothing: {parts}")


class Watch:
    """From ``start`` to ``stop``; ``stop`` raises what it found to be violated.

    Health is not asked for by the thread that reads the database: that one waits where a node is away.
    """

    def __init__(self, subject: Subject, check_proof: Callable[[], None]) -> None:
        self.looks: list[Look] = []
        self.scrapes = 0
        self._subject = subject
        self._last: Counter[str] = Counter()
        self._found: Violation | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(look,), name="watch", daemon=True)
            for look in (self._look, check_proof)
        ]

    def start(self) -> None:
        """Look four times a second."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; raises the first violation."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        if self._found:
            raise self._found

    def says_yes_since(self, moment_s: float) -> bool:
        """Whether its last look was later than this, and good. Raises what it has found."""
        if self._found:
            raise self._found
        return bool(self.looks) and self.looks[-1].at_s > moment_s and self.looks[-1].healthy is True

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                look()
            except Violation as found:
                self._found = found
                return
            except Exception as error:
                self._found = Violation("watch", f"{type(error).__name__}: {error}")
                return

    def _look(self) -> None:
        answer = self._subject.get("/healthz")
        now_s = time.monotonic()
        if answer is None:
            self.looks.append(Look(now_s, None))
            return
        self.looks.append(Look(now_s, answer.status_code == 200, " | ".join(answer.json()["reasons"])))
        scrape = self._subject.get("/metrics")
        if scrape is None or scrape.status_code != 200:
            return
        figures = figures_of(scrape.text)
        self.scrapes += 1
        check_account(figures)
        fallen = [n for n in NEVER_FALL if figures[n] < self._last[n]]
        if fallen:
            was = {name: (self._last[name], figures[name]) for name in fallen}
            raise Violation("counters", f"went back: {was}")
        self._last = figures
