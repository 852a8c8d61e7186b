"""The loop that takes messages from the ring, checks, commits and counts them.

Rules:

1. Every message taken from the ring is stored, rejected and counted, in the spool, or still in the ring.
   While a group is being committed, at most one more is taken and checked; then the ring fills, and the SIP
   process waits. That is the back-pressure.
2. A new writer first settles the group that its predecessor was processing (group_settlement.py).
3. Its heartbeat continues while a write is slow, but stops if a write is stuck (call_watch.py); the process
   is then replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.committer import Committer
from ec_server.ingest.group_parts import Group
from ec_server.ingest.group_settlement import Evidence, GroupSettlement, settle
from ec_server.ingest.housekeeping import Housekeeping
from ec_server.ingest.intake_ring import Taker
from ec_server.ingest.live_figures import LiveFigures
from ec_server.ingest.locked_page import LockedPage
from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_check import MessageCheck
from ec_server.ingest.message_group import Admits
from ec_server.ingest.published_minutes import PublishedMinutes
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.spool import Spool, drained_unnoticed
from ec_server.ingest.spooling import AccountedSpool, LeftSpool, Spooling
from ec_server.ingest.store_handle import StoreHandle
from ec_server.ingest.troubles import Troubles
from ec_server.ingest.watched_calls import WatchedCalls
from ec_server.storage.contract import Store
from utilities.errors import StorageError

_IDLE_TAKE_S = 0.25
_GATHER_SHARE = 0.6
"""The part of ``commit_ms`` for which a group is gathered; the rest is for checking and committing."""
_DRAINER_END_S = 5.0
_MOST_MEANWHILE = 4
"""The largest group, in ``commit_batches``: what arrives while a group is written is the next group."""
_MARK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """The options for committing; units are in the names."""

    worker: str
    run_folder: Path
    limits: Limits
    commit_batches: int = 1000
    commit_ms: int = 100


class Writer:
    """``run`` is called by one thread; ``abandon`` may be called from any thread."""

    def __init__(
        self,
        settings: WriterSettings,
        taker: Taker,
        page: WorkerPage,
        open_store: Callable[[], Store],
        admits: Admits,
        quarantine: Quarantine,
        tell_trouble: Callable[[str], None],
        spool: Spool | None = None,
        left_spools: Sequence[LeftSpool] = (),
    ) -> None:
        """``tell_trouble`` is called, from any thread, with what prevents writing; "" once nothing does.

        With a ``spool``, what the database does not accept waits there, and the writer continues.
        ``left_spools``, those of workers that are no longer configured, are drained as well.
        """
        self._settings = settings
        self._taker = taker
        self._page = page
        self._abandon = threading.Event()
        self._troubles = Troubles(tell_trouble)
        self._check = MessageCheck(settings.limits, admits, quarantine)
        self._calls = WatchedCalls(taker.beat, self._troubles)
        self._handle = StoreHandle(open_store)
        self._minutes = PublishedMinutes(self._handle)
        live = LiveFigures(settings.run_folder / f"{settings.worker}.devices.json", time.monotonic())
        locked = LockedPage(page)
        self._spool = spool
        self._spooling: Spooling | None = None
        if spool is not None:
            own = AccountedSpool(spool, locked.apply, page.figures()["spool_position"])
            self._spooling = Spooling(own, left_spools, open_store, self._troubles)
        self._committer = Committer(
            settings.worker,
            taker,
            locked,
            self._handle,
            self._minutes,
            live,
            self._troubles,
            self._spooling,
            self._abandon,
            self._calls.count_step,
        )
        self._housekeeping = Housekeeping(self._handle, self._minutes, live, self._troubles, self._spooling)

    def abandon(self) -> None:
        """Give up what cannot be written, as the deadline has passed. Thread-safe."""
        self._abandon.set()

    def run(self) -> None:
        """Run until the ring is closed and empty, or ``abandon`` is called; then release everything."""
        drainer = threading.Thread(target=self._drain, name="drainer", daemon=True)
        try:
            settlement = self._settle_group_before()
            drainer.start()
            self._go_round(settlement)
            self._calls.run(self._minutes.end_all)
        finally:
            self._calls.close()
            if self._spooling is not None:
                self._spooling.stop()
            if drainer.ident is not None:
                drainer.join(_DRAINER_END_S)
            self._handle.close()

    def _drain(self) -> None:
        if self._spooling is not None:
            self._spooling.run()

    def _settle_group_before(self) -> GroupSettlement:
        """Settle the group that the previous writer was processing, in the account."""
        evidence = self._taker.evidence()
        if self._spool is None:
            evidence = replace(evidence, in_spool=evidence.spooled)
        else:
            known = self._page.figures()["spool_position"]
            drained = drained_unnoticed(known, self._spool.last_drained)
            evidence = replace(evidence, in_spool=len(self._spool), drained=drained)
        if evidence.asks_for_mark:
            evidence = self._with_mark(evidence)
        settlement = settle(evidence)
        self._taker.begin(settlement)
        self._committer.begin()
        return settlement

    def _with_mark(self, evidence: Evidence) -> Evidence:
        """Add the database's mark; with a spool the database may be unavailable, and keeps no marks."""
        day, _ = self._page.intent()
        while not self._abandon.is_set():
            try:
                mark = self._handle.store().committed_mark(day, self._settings.worker)
            except StorageError as error:
                if self._spool is not None:
                    break
                self._troubles.say("database", str(error))
                self._taker.beat()
                self._abandon.wait(_MARK_AGAIN_S)
            else:
                return replace(evidence, mark=mark)
        return evidence

    def _go_round(self, first: GroupSettlement) -> None:
        gather_s = self._settings.commit_ms / 1000 * _GATHER_SHARE
        enough = self._settings.commit_batches
        usual = _MOST_MEANWHILE * enough
        most, before, days_end = first.group_size or usual, first.settled_before, first.settled_days_end
        while not self._abandon.is_set():
            messages = self._taker.take(most, _IDLE_TAKE_S, gather_s, min(most, enough))
            self._taker.beat()
            now_s = time.monotonic()
            group = None
            if messages:
                batches, rejected = self._check.check(messages)
                group = Group(batches, rejected, self._taker.place, now_s, before, days_end)
                most, before, days_end = usual, 0, 0
            self._calls.end()
            if self._housekeeping.is_due(now_s):
                self._calls.run(lambda now_s=now_s: self._housekeeping.do(now_s))  # type: ignore[misc]
            if group is not None and not self._abandon.is_set():
                self._calls.begin(lambda group=group: self._committer.commit(group))  # type: ignore[misc]
            elif group is None and self._taker.closed:
                break
            if self._taker.parent_is_gone:
                break  # the next SIP process has its own writer, which continues with the ring
        self._calls.end()
