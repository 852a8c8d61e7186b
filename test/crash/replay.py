"""Each prefix of a recording, with what a failure may have cost of it: reopened and held to the promises.

For one point of the recording it is known from the recording alone which states each file went through
(with nothing lost, dumped at each commit). What is found after a failure must be

1. whole: SQLite's integrity check, and the same tables as in one of those states: so each transaction
   happened or did not, packing included;
2. not older than promised. Processes that die cost nothing that had returned. A power failure costs nothing
   that had returned with ``synchronous`` full, and with normal nothing that was synced;
3. truthful once the store has opened it: see reopened_store.py.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from crash.known import Known, ViolationError
from crash.power_failure import Disk, Folder, after_deaths, after_power_failure
from crash.recorded_disk import Link, Noted, Operation, Rename, Sync, Unlink, Write
from crash.reopened_store import ReopenedStore
from crash.workload import (
    Ingested,
    Returned,
    Row,
    rows_of,
)
from ec_server.storage.sqlite_store import SqliteStore

_PAGE_BYTES = 4096
_FRAME_HEADER_BYTES = 24
_TO_THE_END = 0.2
"""Of the folders that differ, the share that goes through rounds until all is proven: they take longest."""


@dataclass(frozen=True, slots=True)
class State:
    """A file at one moment: what its tables held."""

    since: int
    """The operation after which it was so."""
    dump: str
    """A digest of its tables; "" if there was no file."""


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
            return True  # the page may stand there already, from before the log began again
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
            reopened = ReopenedStore(
                self._make(folder), self.known, self.synchronous, is_complete=is_complete
            )
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
