"""A folder after a failure, as the store finds it, held against what is known of the work before it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
from sync_meter import Connection, MemoryMeter, stored_samples

from crash.known import Known, ViolationError
from crash.workload import DEVICE, RULES, SPAN, WRITER, rows_of
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import Batch, CommitMark, MinuteState
from utilities.utc import ec_date, minute_of


class ReopenedStore:
    """A folder after a failure, as the store finds it.

    * The account: where a writer's mark says that a commit happened, all of it is stored, and what was not
      committed is not there; ingest again, and nothing is missing or twice.
    * A minute is proven only if all that the meter last stated of it is stored with its value, and only if
      its own file says so: ``progress.db`` takes proof away and never gives it.
    * Nothing is stored that was never sent.
    * An honest meter's rounds end with everything stored and proven, and every day can be written to.
    """

    def __init__(self, path: Path, known: Known, synchronous: str, *, is_complete: bool) -> None:
        """``is_complete``: nothing that had returned may be gone."""
        self._path, self._known, self._synchronous = path, known, synchronous
        self._is_complete = is_complete

    def check(self, *, to_the_end: bool) -> None:
        said = self._proof_in_files()
        with within(20), SqliteStore(self._path, synchronous=self._synchronous) as store:
            self._check_proof(store, said)
            self._check_values(store)
            self._check_rows(store)
            self._check_account(store)
            if to_the_end:
                self._check_liveness(store)
            self._check_writable(store)

    def _check_writable(self, store: SqliteStore) -> None:
        for path in sorted(self._path.glob("ec-????????.sqlite")):
            probe = batch_of("probe", _second(path.name[3:11], "000000"), "000000,1")
            store.ingest([probe])
            if not list(store.rows("probe", probe.second, probe.second + 1)):
                raise ViolationError(f"{path.name} does not keep what is written to it")

    def _proof_in_files(self) -> set[int]:
        """The minutes that day files call proven, read by other means than the store's."""
        found = set()
        for path in sorted(self._path.glob("ec-*.sqlite")):
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                tables = {n for (n,) in db.execute("SELECT name FROM sqlite_master")}
                lines = (
                    db.execute("SELECT ec_time FROM ec_minute WHERE state = 'proven'")
                    if "ec_minute" in tables
                    else ()
                )
                found |= {_second(path.name[3:11], ec_time) for (ec_time,) in lines}
            except (apsw.CorruptError, apsw.NotADBError):
                continue
            finally:
                db.close()
        return found

    def _check_proof(self, store: SqliteStore, said: set[int]) -> None:
        for start, stop in store.ranges_in(DEVICE, *SPAN, [MinuteState.PROVEN]):
            stored = stored_samples(store, DEVICE, start, stop)
            for minute in range(start, stop, 60):
                if minute not in said:
                    raise ViolationError(f"minute {minute} is proven, and its file does not say so")
                for second, samples in (self._known.stated.get(minute) or {}).items():
                    if not samples.items() <= stored.get(second, {}).items():
                        raise ViolationError(
                            f"minute {minute} is proven, and second {second} lacks what was stated"
                        )
        settled = _minutes(store.ranges_in(DEVICE, *SPAN, [MinuteState.PROVEN]))
        if settled & _minutes(store.unproven_ranges(DEVICE, *SPAN)):
            raise ViolationError("a minute is proven and unproven")

    def _check_values(self, store: SqliteStore) -> None:
        under_way = self._known.under_way
        sent = set(self._known.sent)
        for batch in under_way.batches if under_way else ():
            sent |= _samples(batch)
        stored = {
            (s, us, v) for s, of in stored_samples(store, DEVICE, *SPAN).items() for us, v in of.items()
        }
        if stored - sent:
            raise ViolationError(f"stored and never sent: {sorted(stored - sent)[:3]}")

    def _check_rows(self, store: SqliteStore) -> None:
        """Within a step that keeps all rows as they are, packing above all, they are as they were."""
        known = self._known
        if not (self._is_complete and known.returned and known.begun) or known.begun.changes_rows:
            return
        if rows_of(store) != known.returned.rows:
            raise ViolationError(f"{known.begun.step} changed rows")

    def _check_account(self, store: SqliteStore) -> None:
        kept = self._samples_kept(store)
        for day in {one.day for one in self._known.ingested}:
            mark = store.committed_mark(day, WRITER)
            of_day = [one for one in self._known.ingested if one.day == day]
            if self._known.under_way is not None and self._known.under_way.day == day:
                of_day.append(self._known.under_way)
            for one in of_day:
                is_committed = mark is not None and one.sequence <= mark[0]
                if is_committed and any(_samples(batch) - kept for batch in one.batches):
                    raise ViolationError(f"commit {one.sequence} is on record, and not all of its rows")
                if mark is not None and mark[0] == one.sequence and one.changed is not None:
                    stored = sum(one.changed)
                    if mark[1:] != (stored, len(one.changed) - stored):
                        raise ViolationError(f"commit {one.sequence} is on record with {mark}: {one.changed}")
        self._go_on(store)

    def _go_on(self, store: SqliteStore) -> None:
        """The writer that takes over commits what is not on record; afterwards all of it is there once."""
        under_way = self._known.under_way
        if under_way is None:
            return
        mark = store.committed_mark(under_way.day, WRITER)
        if mark is None or mark[0] < under_way.sequence:
            result = store.ingest(under_way.batches, CommitMark(WRITER, under_way.sequence))
            if self._is_complete and result.changed != self._known.results[under_way.sequence]:
                raise ViolationError(
                    f"commit {under_way.sequence} is not on record, and some of it is stored"
                )
        again = store.ingest(under_way.batches)
        if any(again.changed):
            raise ViolationError(f"commit {under_way.sequence}, once it is on record, changes rows again")

    @staticmethod
    def _samples_kept(store: SqliteStore) -> set[tuple[int, int, str]]:
        """Of rows, and of those that others took the place of."""
        batches = [row.batch for row in store.rows(DEVICE, *SPAN)]
        batches += [kept.row.batch for kept in store.replaced_rows(DEVICE, *SPAN)]
        return set().union(*map(_samples, batches))

    def _check_liveness(self, store: SqliteStore) -> None:
        meter = MemoryMeter(self._known.meter)
        if not meter.seconds:
            return
        connection = Connection(store, meter, RULES)
        now_s = max(self._known.now_s, *meter.seconds) + 200
        for _ in range(2):
            connection.round(now_s)
        start, stop = minute_of(min(meter.seconds)), minute_of(now_s - 10)
        if left := store.unproven_ranges(DEVICE, start, stop):
            raise ViolationError(f"not proven after two rounds: {left}")
        stored = stored_samples(store, DEVICE, start, stop)
        for second, samples in meter.seconds.items():
            if not samples.items() <= stored.get(second, {}).items():
                raise ViolationError(f"second {second} lacks samples that the meter has")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What takes more processor time hangs."""

    def hangs(*_: object) -> None:
        raise _HangError

    before = signal.signal(signal.SIGPROF, hangs)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _HangError:
        raise ViolationError(f"the store was not done after {seconds:g} s of processor time") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class _HangError(BaseException):
    """Nothing that the store may take for damage."""


def _second(date: str, ec_time: str) -> int:
    day = next(d for d in range(SPAN[0], SPAN[1], 86_400) if ec_date(d) == date)
    return day + int(ec_time[:2]) * 3600 + int(ec_time[2:4]) * 60


def _minutes(spans: Sequence[tuple[int, int]]) -> set[int]:
    return {minute for start, stop in spans for minute in range(start, stop, 60)}


def _samples(batch: Batch) -> set[tuple[int, int, str]]:
    return {(batch.second, int(one[:6]), one[7:]) for one in batch.values.split(";")}
