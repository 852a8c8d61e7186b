"""Each prefix of a recording, with what a failure may have cost of it: reopened and held to the promises.

For one point of the recording it is known from the recording alone which states each file went through
(``_History``: with nothing lost, dumped at each commit). What is found after a failure must be

1. whole: SQLite's integrity check, and the same tables as in one of those states: so each transaction
   happened or did not, packing included;
2. not older than promised. Processes that die cost nothing that had returned. A power failure costs nothing
   that had returned with ``synchronous`` full, and with normal nothing that was synced;
3. truthful once the store has opened it: see ``_Reopened``.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from sync_meter import Connection, MemoryMeter, Samples_, stored_samples

from crash.power_failure import Disk, Folder, after_deaths, after_power_failure
from crash.recorded_disk import Link, Noted, Operation, Rename, Sync, Unlink, Write
from crash.workload import (
    DEVICE,
    RULES,
    SPAN,
    WRITER,
    Begun,
    Ingested,
    Lost,
    Recorded,
    Returned,
    Row,
    Stated,
    WentBack,
    rows_of,
)
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import Batch, CommitMark, MinuteState
from utilities.utc import day_of, ec_date, minute_of

_PAGE_BYTES = 4096
_FRAME_HEADER_BYTES = 24
_TO_THE_END = 0.2
"""Of the folders that differ, the share that goes through rounds until all is proven: they take longest."""


class ViolationError(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True, slots=True)
class State:
    """A file at one moment: what its tables held."""

    since: int
    """The operation after which it was so."""
    dump: str
    """A digest of its tables; "" where there was no file."""


@dataclass
class Known:
    """What the notes of a recording's beginning say."""

    ingested: list[Ingested] = field(default_factory=list)
    under_way: Ingested | None = None
    stated: dict[int, dict[int, Samples_] | None] = field(default_factory=dict)
    sent: set[tuple[int, int, str]] = field(default_factory=set)
    """Second, microsecond, value."""
    meter: dict[int, Samples_] = field(default_factory=dict)
    now_s: int = 0
    returned: Returned | None = None
    returned_at: int = 0
    begun: Begun | None = None
    results: dict[int, tuple[bool, ...]] = field(default_factory=dict)
    """What each call of ``ingest`` returned in the recording, by its number; of later ones, too."""

    def take(self, at: int, what: object) -> None:
        if isinstance(what, Ingested):
            self.under_way = what if what.changed is None else None
            if what.changed is not None:
                self.ingested.append(what)
        elif isinstance(what, Stated):
            self.stated[what.minute] = what.seconds
        elif isinstance(what, WentBack):
            self.ingested = [one for one in self.ingested if one.day != what.day]
        elif isinstance(what, Lost):
            self.ingested = [one for one in self.ingested if one.day != what.day]
            self.stated = {m: s for m, s in self.stated.items() if day_of(m) != what.day}
        elif isinstance(what, Recorded):
            self.now_s = what.now_s
            self.sent |= {(s, us, v) for s, of in what.seconds.items() for us, v in of.items()}
            self.meter = what.seconds if len(what.seconds) != 1 else {**self.meter, **what.seconds}
        elif isinstance(what, Begun):
            self.begun = what
        elif isinstance(what, Returned):
            self.returned, self.returned_at = what, at


@dataclass
class Tried:
    """How much was tried."""

    prefixes: int = 0
    folders: int = 0
    distinct: int = 0

    def __add__(self, other: Tried) -> Tried:
        return Tried(
            self.prefixes + other.prefixes, self.folders + other.folders, self.distinct + other.distinct
        )


class Replay:
    """See the module's rules. ``scratch`` is a folder that is this object's own."""

    def __init__(self, operations: Sequence[Operation], synchronous: str, scratch: Path) -> None:
        self.operations, self.synchronous, self.scratch = operations, synchronous, scratch
        self.history: dict[str, list[State]] = {}
        self.synced: dict[str, int] = {}
        """By name, the operation up to which its log was synced."""
        notes = [one.what for one in operations if isinstance(one, Noted)]
        results = {n.sequence: n.changed for n in notes if isinstance(n, Ingested) and n.changed is not None}
        self.disk, self.known = Disk(), Known(results=results)
        self.seen: set[tuple[object, ...]] = set()
        self.tried = Tried()
        self._commit_follows: set[int] = set()
        self._dumped: dict[bytes, str] = {}
        self._chance = random.Random(len(operations))

    def run(self, chance: random.Random, share: float, ways: int) -> Tried:
        """Go through the recording; at a ``share`` of its points try ``ways`` power failures."""
        for at, operation in enumerate(self.operations):
            self.disk.do(operation)
            if isinstance(operation, Noted):
                self.known.take(at, operation.what)
                if isinstance(operation.what, Returned):
                    self._compare_with_live(at, operation.what)
                continue
            if self._may_commit(operation):
                self._note_states(at)
            if isinstance(operation, Sync):
                self._note_sync(at, operation)
            if chance.random() < share:
                self.tried.prefixes += 1
                self._try(at, after_deaths(self.disk), by_power=False)
                for _ in range(ways):
                    self._try(at, after_power_failure(self.disk, chance), by_power=True)
        return self.tried

    # --- which states there were ------------------------------------------------------------------

    def _may_commit(self, operation: Operation) -> bool:
        """Whether a file may hold something else after this operation than before it."""
        if isinstance(operation, Link | Unlink | Rename):
            return True
        if not isinstance(operation, Write):
            return False
        if len(operation.data) == _FRAME_HEADER_BYTES and any(operation.data[4:8]):
            self._commit_follows.add(operation.file)
            return False
        if len(operation.data) >= _PAGE_BYTES and operation.file in self._commit_follows:
            self._commit_follows.discard(operation.file)
            return True
        return operation.at == 0  # a file's first page; damage by hand

    def _note_states(self, at: int) -> None:
        for name, dump in self._dumps(after_deaths(self.disk)).items():
            states = self.history.setdefault(name, [State(-1, "")])
            if states[-1].dump != dump:
                states.append(State(at, dump))

    def _dumps(self, folder: Folder) -> dict[str, str]:
        names = sorted({n for n in (*folder.files, *self.history) if _is_database(n)})
        return {name: self._dump(folder.only(name)) for name in names}

    def _dump(self, folder: Folder) -> str:
        """Of the one database in a folder; the same bytes need no second look."""
        key = folder.digest()
        if key not in self._dumped:
            name = next((n for n in folder.files if _is_database(n)), None)
            self._dumped[key] = dump_of(self._make(folder) / name) if name is not None else ""
        return self._dumped[key]

    def _make(self, folder: Folder) -> Path:
        path = self.scratch / "folder"
        if path.exists():
            shutil.rmtree(path)
        folder.make(path)
        return path

    def _note_sync(self, at: int, operation: Sync) -> None:
        for name, file in self.disk.names_after().items():
            if file == operation.file and name.endswith("-wal"):
                self.synced[name.removesuffix("-wal")] = at

    def _compare_with_live(self, at: int, returned: Returned) -> None:
        """With nothing lost, the folder holds what the stores said at that moment."""
        rows = self._rows(after_deaths(self.disk))
        if rows != returned.rows:
            raise ViolationError(f"operation {at}: the files hold other rows than were seen")

    def _rows(self, folder: Folder) -> tuple[Row, ...]:
        with SqliteStore(self._make(folder), read_only=True) as store:
            return rows_of(store)

    def _allowed(self, at: int, name: str, *, by_power: bool) -> set[str]:
        """The dumps of the states that a file may be found in."""
        states = self.history.get(name, [State(-1, "")])
        floor = self.known.returned_at
        if by_power and self.synchronous == "normal":
            floor = min(floor, self.synced.get(name, -1))
        if by_power:
            changes = len(self.disk.names_under_way)
            if any(name in _names_in(change) for change in self.disk.names_under_way):
                floor = min(floor, self._begin_of_last(changes, at))
        oldest = max(i for i, state in enumerate(states) if state.since <= floor)
        return {state.dump for state in states[oldest:]}

    def _begin_of_last(self, changes: int, at: int) -> int:
        """Before the last so many changes of names."""
        for place in range(at, -1, -1):
            changes -= isinstance(self.operations[place], Link | Unlink | Rename)
            if not changes:
                return place - 1
        return -1

    # --- one failure ------------------------------------------------------------------------------

    def _try(self, at: int, folder: Folder, *, by_power: bool) -> None:
        self.tried.folders += 1
        where = f"operation {at}, {'power failure' if by_power else 'death'}"
        dumps = self._dumps(folder)
        for name, dump in dumps.items():
            if dump not in self._allowed(at, name, by_power=by_power):
                raise ViolationError(f"{where}: {name} holds a state that it must not hold: {dump}")
        key = (*sorted(dumps.items()), self.known.returned_at, self.known.under_way, len(self.known.stated))
        if key in self.seen:
            return
        self.seen.add(key)
        self.tried.distinct += 1
        try:
            is_complete = not by_power or self.synchronous == "full"
            reopened = _Reopened(self._make(folder), self.known, self.synchronous, is_complete=is_complete)
            reopened.check(to_the_end=self._chance.random() < _TO_THE_END)
        except ViolationError as violation:
            raise ViolationError(f"{where}: {violation}") from violation


def _names_in(change: Operation) -> Iterator[str]:
    for name in (getattr(change, part, "") for part in ("name", "old", "new")):
        yield name.removesuffix("-wal").removesuffix("-journal")


def _is_database(name: str) -> bool:
    return name == "progress.db" or (name.startswith("ec-") and name.endswith(".sqlite"))


def dump_of(path: Path) -> str:
    """A digest of all that stands in a file's tables; says so where it is damaged or fails its check."""
    if not path.exists():
        return ""
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        return f"unreadable: {error}"
    try:
        checked = [row[0] for row in db.execute("PRAGMA integrity_check")]
        if checked != ["ok"]:
            return f"fails its check: {checked[:3]}"
        digest = hashlib.md5()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        digest.update(str(version).encode())
        names = sorted(n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        for name in names:
            digest.update(name.encode())
            digest.update("\n".join(sorted(map(repr, db.execute(f"SELECT * FROM {name}")))).encode())
        return digest.hexdigest()
    except (apsw.CorruptError, apsw.NotADBError):
        return "damaged"
    finally:
        db.close()


class _Reopened:
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
    """What takes longer hangs."""

    def hangs(*_: object) -> None:
        raise ViolationError(f"the store was not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _second(date: str, ec_time: str) -> int:
    day = next(d for d in range(SPAN[0], SPAN[1], 86_400) if ec_date(d) == date)
    return day + int(ec_time[:2]) * 3600 + int(ec_time[2:4]) * 60


def _minutes(spans: Sequence[tuple[int, int]]) -> set[int]:
    return {minute for start, stop in spans for minute in range(start, stop, 60)}


def _samples(batch: Batch) -> set[tuple[int, int, str]]:
    return {(batch.second, int(one[:6]), one[7:]) for one in batch.values.split(";")}
