"""What stands between the intake ring and the database: takes, checks, commits, accounts.

Rules:

1. What was taken from the ring is stored, rejected and counted, or still in the ring: a write that
   fails is tried again until it succeeds or the process has to go. Meanwhile at most one more group is
   taken, the ring fills, and the SIP process waits: that is the back-pressure.
2. The account is settled in one step for each commit, after it, and the ring goes on in the same
   step. Before it, the page notes which commit is meant (``intend``), and the commit carries the same
   number: so whoever takes over after a death knows whether it happened, to the unit.
3. It beats while it goes round or waits for a database that it knows to be away; it stands still
   only where it is stuck.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ec_server.account.figures import REJECTED
from ec_server.account.histograms import COMMIT_DURATION, NEWEST_SAMPLE_AGE
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.intake_ring import Place, Taker
from ec_server.ingest.live_figures import LiveFigures
from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_group import GroupParser
from ec_server.ingest.minute_ledger import MinuteLedger
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.spool import Spool
from ec_server.ingest.spooling import Drained, Spooling
from ec_server.storage.contract import FinishedMinute, Store
from utilities.errors import PermanentStorageError, StorageError
from utilities.log import RateLimit
from utilities.model import Batch, CommitMark, RawMessage, Rejection, RejectReason
from utilities.utc import DAY_S, day_of, minute_of

_log = logging.getLogger(__name__)

_IDLE_TAKE_S = 0.25
_HEALTH_INTERVAL_S = 1.0
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 5.0
_DRAINER_END_S = 5.0
_MOST_MEANWHILE = 4
"""Times ``commit_batches``: what came while the group before was being written is one group."""
_SAMPLES_KEPT_FOR = frozenset((RejectReason.TIME_TOO_FAR_AHEAD, RejectReason.TIME_TOO_FAR_BACK))

Admits = Callable[[str, RawMessage], Rejection | None]
"""Whether a message may come in the name of a device id: None, or why not."""


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """What the configuration says of committing; times in the unit of the name."""

    worker: str
    run_folder: Path
    limits: Limits
    commit_batches: int = 1000
    commit_ms: int = 100


@dataclass(frozen=True, slots=True)
class _Group:
    """Messages taken and checked, and where they end in the ring."""

    batches: list[Batch]
    rejected: Counter[str]
    end: Place
    taken_s: float


class Writer:
    """``run`` is the thread's body; everything else may be called from other threads where it says so."""

    def __init__(
        self,
        settings: WriterSettings,
        taker: Taker,
        page: WorkerPage,
        open_store: Callable[[], Store],
        admits: Admits,
        quarantine: Quarantine,
        on_trouble: Callable[[str], None],
        spool: Spool | None = None,
    ) -> None:
        """``on_trouble`` is told what keeps it from writing, "" once it can; from a thread of the writer's.

        With a ``spool``, what the database does not take waits there, and the writer goes on.
        """
        self._settings = settings
        self._taker = taker
        self._page = page
        self._open_store = open_store
        self._admits = admits
        self._quarantine = quarantine
        self._on_trouble = on_trouble
        self._trouble = ""
        self._parser = GroupParser(settings.limits)
        self._ledger = MinuteLedger()
        self._live = LiveFigures(settings.run_folder / f"{settings.worker}.devices.json", time.monotonic())
        self._log_limit = RateLimit()
        self._settled_sequence = page.figures()["settled_sequence"]
        self._sequence = max(page.intent()[1], self._settled_sequence)
        self._already = 0
        self._store: Store | None = None
        self._page_lock = threading.Lock()  # the drainer settles too
        self._spooling: Spooling | None = None
        if spool is not None:
            self._spooling = Spooling(spool, open_store, self._settle_drained, self._say_trouble)
            self._agree_with_spool(len(spool))
        self._next_health_s = 0.0
        self._abandon = threading.Event()
        self._pool = ThreadPoolExecutor(1, "commit")
        self._commit_under_way: Future[None] | None = None

    # --- the thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Go round until the queue is closed and empty, or ``abandon`` is called; then let go."""
        gather_s = self._settings.commit_ms / 1000 * 0.6
        enough = self._settings.commit_batches
        most = _MOST_MEANWHILE * enough
        drainer = threading.Thread(target=self._drain, name="drainer", daemon=True)
        drainer.start()
        try:
            self._settle_commit_in_doubt()
            self._already = self._taker.already_settled
            limit = self._taker.rest_of_group or most
            while not self._abandon.is_set():
                messages = self._taker.take(limit, _IDLE_TAKE_S, gather_s, min(limit, enough))
                limit = most
                self._taker.beat()
                now_s = time.monotonic()
                group = self._check(messages, now_s) if messages else None
                self._end_commit()
                self._look_after(now_s)
                if group is not None:
                    self._begin_commit(group)
                elif self._taker.closed:
                    break
                if self._taker.parent_is_gone:
                    break  # the next SIP process brings a writer of its own; the ring waits for it
            self._end_commit()
            self._publish(self._ledger.end_all())
        finally:
            self._pool.shutdown()
            if self._spooling is not None:
                self._spooling.stop()
            drainer.join(_DRAINER_END_S)
            if self._store is not None:
                self._store.close()

    def _settle_commit_in_doubt(self) -> None:
        """A writer before may have died between its commit and the account: the database knows."""
        day, sequence = self._page.intent()
        if sequence <= self._settled_sequence or not self._taker.in_hand:
            return
        mark = None
        while not self._abandon.is_set():
            try:
                mark = self._opened().committed_mark(day, self._settings.worker)
                break
            except StorageError as error:
                self._say_trouble(str(error))
                self._wait(_LONGEST_RETRY_S)
        if mark is not None and mark[0] == sequence:
            step = sequence - self._settled_sequence
            self._taker.settle_doubt({"stored": mark[1], "duplicate": mark[2], "settled_sequence": step})
            self._settled_sequence = sequence

    def _drain(self) -> None:
        if self._spooling is not None:
            self._spooling.run()

    def abandon(self) -> None:
        """Give up what cannot be written: the deadline has come. Any thread may call."""
        self._abandon.set()

    # --- from message to batch ------------------------------------------------------------

    def _check(self, messages: Sequence[RawMessage], now_s: float) -> _Group:
        batches: list[Batch] = []
        rejected: Counter[str] = Counter()
        for message, found in zip(messages, self._parser.parse(messages, int(time.time()))):
            if isinstance(found, Batch):
                refusal = self._admits(found.device_id, message)
                if refusal is None:
                    batches.append(found)
            else:
                refusal = found
            if refusal is not None:
                rejected[REJECTED[refusal.reason]] += 1
                self._report(message, refusal, rejected)
        return _Group(batches, rejected, self._taker.taken, now_s)

    def _begin_commit(self, group: _Group) -> None:
        """Have it committed while the next group is taken and checked, and nothing else is done."""
        if not self._abandon.is_set():  # else the group before may not be settled, and it must not be passed
            self._commit_under_way = self._pool.submit(self._settle_group, group)

    def _end_commit(self) -> None:
        under_way, self._commit_under_way = self._commit_under_way, None
        if under_way is not None:
            under_way.result()

    def _settle_group(self, group: _Group) -> None:
        """Commit day by day; the last step also settles the rejected and lets the ring go on."""
        already, self._already = self._already, 0
        days = _by_day(group.batches)
        while days and already >= len(days[0][1]) > 0:
            already -= len(days.pop(0)[1])
        self._taker.note_group(group.end)
        rest = {**group.rejected, **self._taker.advance(group.end)}
        for day, of_day in days[:-1]:
            if not self._commit(day, of_day, group.taken_s, {}):
                return
        if not days:
            self._apply(rest)
        elif not self._commit(*days[-1], group.taken_s, rest):
            return
        self._taker.went_on(group.end)

    def _report(self, message: RawMessage, rejection: Rejection, counts: Counter[str]) -> None:
        reason = rejection.reason
        if reason in _SAMPLES_KEPT_FOR and self._quarantine.keep(message, reason):
            counts["quarantined"] += 1
        write, held_back = self._log_limit.allow(reason.value)
        if held_back:
            _log.warning("%d more rejected messages were not logged", held_back)
        if write:
            _log.warning(
                "rejected: %s: %s (sender %s)",
                reason.value,
                rejection.detail,
                message.sender,
                extra={"device": rejection.device_id},
            )

    # --- from batch to row ----------------------------------------------------------------

    def _commit(self, day: int, batches: list[Batch], now_s: float, rest: Mapping[str, int]) -> bool:
        """Write until it is committed or spooled, and settle that with ``rest``; False: abandoned."""
        self._sequence += 1
        wait_s = _FIRST_RETRY_S
        while not self._abandon.is_set():
            began_us = time.time_ns() // 1000
            try:
                if self._spooling is not None and self._spooling.engaged:
                    self._to_spool(self._spooling, batches, began_us, rest)
                else:
                    self._to_database(day, batches, now_s, rest)
            except StorageError as error:
                self._apply({"write_failures": 1})
                if self._spooling is not None and self._spool_instead(batches, began_us, rest, error):
                    return True
                self._say_trouble(str(error))
                if isinstance(error, PermanentStorageError):
                    self._reopen()
                self._wait(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_RETRY_S)
            else:
                return True
        return False

    def _to_database(self, day: int, batches: list[Batch], now_s: float, rest: Mapping[str, int]) -> None:
        began_ns = time.perf_counter_ns()
        store = self._opened()
        self._page.intend(day, self._sequence)
        result = store.ingest(batches, CommitMark(self._settings.worker, self._sequence))
        self._settle(batches, result.changed, (time.perf_counter_ns() - began_ns) // 1000, rest)
        changed = [b for b, c in zip(batches, result.changed) if c]
        self._publish(self._ledger.add(changed, result.opened, now_s))
        self._say_trouble("")

    # --- the spool ------------------------------------------------------------------------

    def _to_spool(
        self, spooling: Spooling, batches: list[Batch], began_us: int, rest: Mapping[str, int]
    ) -> None:
        spooling.append(batches, began_us)
        self._apply({**rest, "spooled": len(batches)})
        self._ledger.forget({(b.device_id, minute_of(b.second)) for b in batches})
        self._live.count(batches)

    def _spool_instead(
        self, batches: list[Batch], began_us: int, rest: Mapping[str, int], why: StorageError
    ) -> bool:
        """Whether the spool took what the database did not."""
        assert self._spooling is not None
        if self._spooling.engaged:
            return False  # the spool itself refused
        try:
            self._to_spool(self._spooling, batches, began_us, rest)
        except StorageError as error:
            _log.warning("nor does the spool take it: %s", error)
            return False
        self._say_trouble(f"the database takes nothing, the spool does: {why}")
        return True

    def _settle_drained(self, drained: Drained) -> None:
        self._apply(
            {
                "spooled": -(drained.stored + drained.duplicate + drained.set_aside),
                "stored": drained.stored,
                "duplicate": drained.duplicate,
                "samples_stored": drained.samples_stored,
                REJECTED[RejectReason.UNSTORABLE]: drained.set_aside,
            }
        )

    def _agree_with_spool(self, waiting: int) -> None:
        """Put the account right with what is in the spool: a death may have come between the two."""
        figures = self._page.figures()
        more = waiting - figures["spooled"]
        if more < 0:
            self._apply({"spooled": more, "stored": -more})
        elif 0 < more <= self._taker.in_hand:
            self._taker.settle_doubt({"spooled": more})
        elif more:
            self._apply({"spooled": more, "taken_over": more})

    def _settle(
        self, batches: Sequence[Batch], changed: Sequence[bool], commit_us: int, rest: Mapping[str, int]
    ) -> None:
        stored = sum(changed)
        self._apply(
            {
                **rest,
                "stored": stored,
                "duplicate": len(changed) - stored,
                "samples_stored": sum([b.count for b, c in zip(batches, changed) if c]),
                "commits": 1,
                "commit_us": commit_us,
                **COMMIT_DURATION.noted(commit_us / 1e6),
                **NEWEST_SAMPLE_AGE.noted(time.time() - max([b.second + b.end_us / 1e6 for b in batches])),
                "settled_sequence": self._sequence - self._settled_sequence,
            }
        )
        self._settled_sequence = self._sequence
        self._live.count(batches)

    def _publish(self, finished: Sequence[FinishedMinute]) -> None:
        """Digests are a cache: where they cannot be written, the rows say the same."""
        if finished and self._store is not None:
            try:
                self._store.publish(finished)
            except StorageError as error:
                _log.warning("digests not kept, they will be computed from the rows: %s", error)

    # --- round about ----------------------------------------------------------------------

    def _look_after(self, now_s: float) -> None:
        """What is done now and then: live figures, devices on record, silent minutes, health."""
        seen = self._live.write_when_due(now_s)
        try:
            if seen:
                self._opened().note_devices({d: int(s * 1e6) for d, s in seen.items()})
            if now_s >= self._next_health_s:
                self._next_health_s = now_s + _HEALTH_INTERVAL_S
                self._publish(self._ledger.idle(now_s))
                if self._spooling is None or not self._spooling.engaged:
                    self._say_trouble(self._opened().health().detail)
        except StorageError as error:
            self._say_trouble(str(error))

    def _apply(self, changes: Mapping[str, int]) -> None:
        with self._page_lock:
            self._page.apply(changes)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _reopen(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _say_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                _log.error("cannot store: %s", trouble)
            else:
                _log.info("storing again")
            self._on_trouble(trouble)

    def _wait(self, wait_s: float) -> None:
        """Wait for a database that is known to be away; the thread is not stuck meanwhile."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._abandon.wait(min(left_s, 0.5)):
            self._taker.beat()


def _by_day(batches: list[Batch]) -> list[tuple[int, list[Batch]]]:
    """The batches of each UTC day, in their order; nearly always there is one."""
    days = {second - second % DAY_S for second in {batch.second for batch in batches}}
    if len(days) == 1:
        return [(days.pop(), batches)]
    return [(day, [b for b in batches if day_of(b.second) == day]) for day in sorted(days)]
