"""Commits groups of batches to the database or the spool, and updates the counters.

Rules:

1. A failed write is tried again until it succeeds or the process has to end. With a spool, what the database
   does not accept goes there at once, and so does everything that follows until the spool is empty.
2. After each commit the account changes in one step; the last step of a group also advances the ring. Before
   the commit, the page notes its number (``intend``), and the commit stores the same number with the rows.
   So the successor of a writer that died knows whether the commit happened (group_settlement.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ec_server.account.histograms import COMMIT_DURATION, NEWEST_SAMPLE_AGE
from ec_server.ingest.group_parts import Group, counted_once, days_to_commit
from ec_server.ingest.intake_ring import Taker
from ec_server.ingest.live_figures import LiveFigures
from ec_server.ingest.locked_page import LockedPage
from ec_server.ingest.published_minutes import PublishedMinutes
from ec_server.ingest.spooling import Spooling
from ec_server.ingest.store_handle import StoreHandle
from ec_server.ingest.troubles import Troubles
from utilities.errors import PermanentStorageError, StorageError
from utilities.model import Batch, CommitMark

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 5.0
_STEP_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """One commit: the batches of a day, and the figures that change with it."""

    day: int
    batches: list[Batch]
    rest: Mapping[str, int]
    """Figures that change with the group's last step: rejected messages, and the ring's position."""
    taken_s: float


class Committer:
    """``commit`` is called by one thread; ``abandon`` is an event that any thread may set."""

    def __init__(
        self,
        worker: str,
        taker: Taker,
        page: LockedPage,
        handle: StoreHandle,
        minutes: PublishedMinutes,
        live: LiveFigures,
        troubles: Troubles,
        spooling: Spooling | None,
        abandon: threading.Event,
        count_step: Callable[[], None],
    ) -> None:
        """``count_step`` is called while waiting for a database that is known to be unavailable."""
        self._worker = worker
        self._taker = taker
        self._page = page
        self._handle = handle
        self._minutes = minutes
        self._live = live
        self._troubles = troubles
        self._spooling = spooling
        self._abandon = abandon
        self._count_step = count_step
        self._settled_sequence = 0
        self._sequence = 0
        self._twice = 0

    def begin(self) -> None:
        """Continue the numbering of commits from the account."""
        self._settled_sequence = self._page.page.figures()["settled_sequence"]
        self._sequence = max(self._page.page.intent()[1], self._settled_sequence)

    def commit(self, group: Group) -> None:
        """Commit a group day by day; if abandoned, returns early and does not advance the ring."""
        days, self._twice = days_to_commit(group)
        if self._twice:
            self._page.apply({"taken_over": self._twice})
        self._taker.note_group_end(group.end)
        rest = {**group.rejected, **self._taker.moved_to(group.end)}
        for day, batches in days[:-1]:
            if not self._until_done(_Step(day, batches, {}, group.taken_s)):
                return
        if days:
            self._until_done(_Step(*days[-1], rest, group.taken_s))
        else:
            self._account(rest)

    def _until_done(self, step: _Step) -> bool:
        """Write until the step is committed or spooled; False if abandoned."""
        self._sequence += 1
        wait_s = _FIRST_RETRY_S
        while not self._abandon.is_set():
            try:
                self._write(step)
            except StorageError as error:
                self._page.apply({"write_failures": 1})
                if self._spool_instead(step, error):
                    return True
                if isinstance(error, PermanentStorageError):
                    self._handle.close()
                self._wait(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_RETRY_S)
            else:
                return True
        return False

    def _write(self, step: _Step) -> None:
        if self._spooling is not None and self._spooling.engaged:
            self._to_spool(self._spooling, step)
        else:
            self._to_database(step)

    def _to_database(self, step: _Step) -> None:
        began_ns = time.perf_counter_ns()
        try:
            store = self._handle.store()
            self._page.page.intend(step.day, self._sequence)
            result = store.ingest(step.batches, CommitMark(self._worker, self._sequence))
        except StorageError as error:
            self._minutes.forget(step.batches)
            self._troubles.say("database", str(error))
            raise
        took_us = (time.perf_counter_ns() - began_ns) // 1000
        self._account(self._figures(step.batches, result.changed, took_us, step.rest))
        self._settled_sequence = self._sequence
        self._live.count(step.batches)
        self._troubles.say("database", "")
        changed = [b for b, c in zip(step.batches, result.changed) if c]
        self._minutes.add(changed, result.opened, step.taken_s)

    def _figures(
        self, batches: Sequence[Batch], changed: Sequence[bool], took_us: int, rest: Mapping[str, int]
    ) -> dict[str, int]:
        stored = sum(changed)
        return {
            **rest,
            "stored": stored,
            "duplicate": len(changed) - stored,
            "samples_stored": sum([b.count for b, c in zip(batches, changed) if c]),
            "commits": 1,
            "commit_us": took_us,
            **COMMIT_DURATION.noted(took_us / 1e6),
            **NEWEST_SAMPLE_AGE.noted(time.time() - max([b.second + b.end_us / 1e6 for b in batches])),
            "settled_sequence": self._sequence - self._settled_sequence,
        }

    # --- the spool ------------------------------------------------------------------------

    def _spool_instead(self, step: _Step, why: StorageError) -> bool:
        """Whether the spool accepted what the database did not."""
        if self._spooling is None:
            return False
        if self._spooling.engaged:
            return False  # the spool itself refused it
        try:
            self._to_spool(self._spooling, step)
        except StorageError as error:
            _log.warning("the spool cannot store it either: %s", error)
            return False
        self._troubles.say("database", f"the database takes nothing, the spool does: {why}")
        return True

    def _to_spool(self, spooling: Spooling, step: _Step) -> None:
        self._page.page.intend(step.day, self._sequence)
        try:
            spooling.append(step.batches, time.time_ns() // 1000)
        except StorageError as error:
            self._troubles.say("spool", str(error))
            raise
        self._troubles.say("spool", "")
        step_of_account = {
            **step.rest,
            "spooled": len(step.batches),
            "settled_sequence": self._sequence - self._settled_sequence,
        }
        self._account(step_of_account)
        self._settled_sequence = self._sequence
        self._minutes.forget(step.batches)
        self._live.count(step.batches)

    # --- both -----------------------------------------------------------------------------

    def _account(self, changes: Mapping[str, int]) -> None:
        if self._twice:
            changes, self._twice = counted_once(changes, self._twice)
        self._page.apply(changes)

    def _wait(self, wait_s: float) -> None:
        """Wait for a database that is known to be unavailable, without being considered stuck."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._abandon.wait(min(left_s, _STEP_S)):
            self._count_step()
