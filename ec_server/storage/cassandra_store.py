"""The storage contract on Cassandra: bounded partitions, idempotent writes, conclusions that know their age.

Rules (the reasoning about several writers and readers is at the head of cassandra_minutes.py):

1. A row is written once, blindly, with the moment of its insertion as its timestamp: written again it
   changes nothing, and a replay from the spool, which carries its first moment, never wins over a
   repair. Rows of one device-minute travel in unlogged batches within their one partition.
2. ``write`` is all or none for each partition, not for the call: where it raises, some rows may be
   stored. The caller repeats the same batches, and the result is the same as if it had come once.
3. Duplicates are told apart as far as this process remembers its own last rows. A row of the same
   key with other samples, where it is noticed, is merged; two servers that receive different samples
   under one key at the same moment keep the later one.
4. A call without a mark and without a moment (a repair, a tool) reads the seconds that it changes
   first: it merges, counts duplicates exactly, ranks after every stored row whatever the clocks say,
   and changes each second in one atomic mutation.
5. What other programs change in ``ec_consumption`` is noticed when the rows are read (``from_rows``),
   not before: Cassandra has no triggers that could tell.
6. The database may be away at any moment, also at the start: calls then fail at once with
   RetryableStorageError, and the connection comes back by itself (utilities/cassandra_util.py).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from configuration.settings import Settings
from ec_server.errors import StorageError
from ec_server.model import (
    Batch,
    CommitMark,
    DeviceRecord,
    Digest,
    MinuteRecord,
    MinuteState,
    Verdict,
    WriteResult,
)
from ec_server.storage import ranges
from ec_server.storage.cassandra_claims import (
    DELETE_DIGESTS,
    LINES,
    Claims,
    Key,
    Stamps,
)
from ec_server.storage.cassandra_minutes import (
    FINAL,
    SETTLED,
    MinuteLines,
    fingerprint,
    minutes_of_rows,
)
from ec_server.storage.contract import FinishedMinute, StorageHealth, Store
from ec_server.storage.merge import merged_batch, single_day
from ec_server.storage.timeuuid import microseconds, timeuuid
from ec_server.utc import (
    DAY_S,
    MINUTE_S,
    day_of,
    ec_date,
    ec_time,
    minute_of,
    minute_text,
    parse_ec,
    parse_minute,
)
from utilities.cassandra_util import Database, Statement, Target
from utilities.checksum_util import join_rows, minute_digest, second_digest

_SCHEMA = Path(__file__).with_name("schema") / "cassandra.cql"
_FIRST_CONNECTION_S = 20.0
_ROWS_A_BATCH = 64
_REMEMBERED_ROWS = 100_000
_LONGEST_TTL_S = 20 * 365 * DAY_S  # Cassandra's own limit
_MEMO_S = 30.0
_KEPT_AT_ONCE = 32

_INSERT = (
    "INSERT INTO ec_consumption (device_id, ec_date, ec_minute, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_ROWS = (
    "SELECT ec_time, start_us, end_us, ec_consumption_values, values_count, values_checksum, insert_time"
    " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
    " AND ec_time >= ? AND ec_time <= ?"
)
_COUNT = (
    "SELECT count(*) AS rows, sum(values_count) AS samples FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_ANY_ROW = "SELECT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ? LIMIT 1"
_DIGESTS = (
    "SELECT ec_time, ec_type, values_count, values_checksum, check_times FROM ec_checksum"
    " WHERE device_id = ? AND ec_date = ? AND ec_time >= ? AND ec_time <= ?"
)
_CACHE = (
    "INSERT INTO ec_checksum (device_id, ec_date, ec_time, ec_type, values_count, values_checksum,"
    " check_time, check_times) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_CHECKED = (
    "UPDATE ec_checksum USING TTL ? AND TIMESTAMP ? SET check_time = ?, check_times = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND ec_type = ?"
)
_KNOWN = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET digest_version = ?, minute_count = ?, minute_md5 = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)
_SETTLE = (
    "UPDATE ec_minute USING TTL ? SET version = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ?"
)
_COMPARED = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET check_time = ?, check_times = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)
_VERDICT = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET state = ?, state_version = ?, extra = ?,"
    " conflicts = ?, check_time = ?, check_times = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)
_NOTE = (
    "INSERT INTO ec_notable (device_id, ec_date, ec_time, state, extra, conflicts)"
    " VALUES (?, ?, ?, ?, ?, ?) USING TTL ?"
)
_UNNOTE = "DELETE FROM ec_notable WHERE device_id = ? AND ec_date = ? AND ec_time = ?"
_DAYS = (
    "SELECT ec_date, writer, version, proven_from, proven_version, sealed_version FROM ec_day"
    " WHERE device_id = ?"
)
_CHANGES = (
    "SELECT count(version) AS lines, sum(CAST(version AS varint)) AS versions, sum(check_times) AS checks"
    " FROM ec_minute WHERE device_id = ? AND ec_date = ?"
)
_DAY_PROVEN = (
    "UPDATE ec_day USING TTL ? SET proven_from = ?, proven_version = ?"
    " WHERE device_id = ? AND ec_date = ? AND writer = ''"
)
_DAY_SEALED = (
    "UPDATE ec_day USING TTL ? SET sealed_version = ? WHERE device_id = ? AND ec_date = ? AND writer = ''"
)


@dataclass(frozen=True, slots=True)
class _Day:
    """What is on record of one day of one device."""

    fingerprint: str = ""
    proven_from: str | None = None
    proven_version: str | None = None
    sealed_version: str | None = None

    def is_final(self, start: int) -> bool:
        """Whether every minute from ``start`` to the day's end is on record as final."""
        return self.proven_version == self.fingerprint and (self.proven_from or "~") <= ec_time(start)[:4]


_NO_DAY = _Day()


class CassandraStore(Store):
    """One connection to a cluster; see the module's rules."""

    def __init__(self, target: Target, *, read_only: bool = False, retention_days: int = 0) -> None:
        """Begin to connect; ``wait`` tells how that went. ``retention_days`` 0 keeps for ever."""
        self._read_only = read_only
        self._retention_s = retention_days * DAY_S
        self._stamps = Stamps()
        self._lock = threading.RLock()
        self._recent: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._first_seen: dict[str, int] = {}
        self._through: dict[str, tuple[float, object, int | None]] = {}
        self._next_upkeep_s = 0.0
        tables = Template(_SCHEMA.read_text("utf-8")).substitute(window_hours=_window_hours(retention_days))
        self._db = Database(target, tables, read_only=read_only, on_tick=self._upkeep)
        self._claims = Claims(self._db, uuid.uuid4().hex[:16], self._stamps, self._ttl_s)

    def wait(self, timeout_s: float) -> None:
        """Wait for the first attempt to connect. ConfigurationError where the operator must change a key."""
        try:
            self._db.wait(timeout_s)
        except Exception:
            self._db.close()
            raise

    def close(self) -> None:
        """See the contract; ends the leases of what this store wrote, where the database answers."""
        try:
            with self._lock, suppress(StorageError):  # they run out by themselves
                self._claims.release_all()
        finally:
            self._db.close()

    def health(self) -> StorageHealth:
        """See the contract; asks nobody, the connection's own thread does."""
        answers, trouble = self._db.state()
        return StorageHealth(writable=answers, detail=trouble)

    def _upkeep(self) -> None:
        """Release what was not written to for a while; skipped while a call is under way."""
        if self._lock.acquire(blocking=False):
            try:
                self._claims.release()
            finally:
                self._lock.release()

    def _ttl_s(self, moment: int) -> int:
        """Seconds until retention removes the day of ``moment``; 0: never."""
        if not self._retention_s:
            return 0
        left_s = day_of(moment) + DAY_S + self._retention_s - int(time.time())
        return 0 if left_s > _LONGEST_TTL_S else max(DAY_S, left_s)

    # --- ingest ---------------------------------------------------------------------------

    def write(
        self,
        batches: Sequence[Batch],
        mark: CommitMark | None = None,
        inserted_us: int | Sequence[int] | None = None,
    ) -> WriteResult:
        """See the contract and rules 1 to 4. Minutes of a replay (``inserted_us``) are not published."""
        if single_day(batches) is None:
            return WriteResult(())
        with self._lock:
            keys = {(b.device_id, minute_of(b.second)) for b in batches}
            try:
                if mark is None and inserted_us is None:
                    return self._write_carefully(batches)
                result = self._write_blindly(batches, inserted_us)
            except StorageError:
                self._claims.spoil(keys)
                raise
            if inserted_us is not None:
                self._claims.spoil(keys)
            self._look_after_claims()
            return result

    def _write_blindly(
        self, batches: Sequence[Batch], inserted_us: int | Sequence[int] | None
    ) -> WriteResult:
        at_us = self._stamps.next(len(batches)) if inserted_us is None else inserted_us
        moments = range(at_us, at_us + len(batches)) if isinstance(at_us, int) else at_us
        rows: dict[Key, list[tuple[Batch, int]]] = {}
        met: list[Batch] = []
        changed = []
        fresh: dict[tuple[str, int, int, int], str] = {}
        for batch, moment_us in zip(batches, moments):
            known = fresh.get(batch.key) or self._recent.get(batch.key)
            changed.append(known != batch.checksum)
            if known is None:
                fresh[batch.key] = batch.checksum
                rows.setdefault((batch.device_id, minute_of(batch.second)), []).append((batch, moment_us))
            elif known != batch.checksum:
                met.append(batch)
        opened = self._store_rows(rows, _chunks(rows))
        self._remember(fresh)
        if met:
            self._write_carefully(met)
        return WriteResult(tuple(changed), opened)

    def _write_carefully(self, batches: Sequence[Batch]) -> WriteResult:
        """Rule 4: read the seconds, merge, and change each in one mutation."""
        seconds = list(dict.fromkeys((b.device_id, b.second) for b in batches))
        stored: dict[tuple[str, int, int, int], Batch] = {}
        latest_us = 0
        for device_id, second in seconds:
            for batch, insert_us in self.rows(device_id, second, second + 1):
                stored[batch.key] = batch
                latest_us = max(latest_us, insert_us)
        first_us = max(self._stamps.next(len(batches)), latest_us + 1)
        result: dict[tuple[str, int], dict[tuple[str, int, int, int], tuple[Batch, int]]] = {}
        changed = []
        for i, arrived in enumerate(batches):
            before = stored.get(arrived.key)
            after = arrived if before is None else merged_batch(before, arrived)
            changed.append(after is not None)
            if after is not None:
                stored[after.key] = after
                result.setdefault((after.device_id, after.second), {})[after.key] = (after, first_us + i)
        by_second = [list(rows.values()) for rows in result.values()]
        keys = {(d, minute_of(s)): list(result[d, s].values()) for d, s in result}
        opened = self._store_rows(keys, by_second) if keys else frozenset()
        self._remember({key: stored[key].checksum for rows in result.values() for key in rows})
        return WriteResult(tuple(changed), opened)

    def _store_rows(
        self, keys: Collection[Key], groups: Iterable[Sequence[tuple[Batch, int]]]
    ) -> frozenset[Key]:
        """Lines, rows, new versions, in that order; returns the minutes that this opened."""
        self._claims.hold(keys)
        self._db.write([self._insert(batch, at_us) for batch, at_us in group] for group in groups)
        return self._claims.touch(keys)

    def _insert(self, batch: Batch, at_us: int) -> Statement:
        time_text = ec_time(batch.second)
        values = (
            batch.device_id,
            ec_date(batch.second),
            time_text[:4],
            time_text,
            f"{batch.start_us:06d}",
            f"{batch.end_us:06d}",
            batch.values,
            batch.count,
            batch.checksum,
            timeuuid(at_us),
            at_us,
            self._ttl_s(batch.second),
        )
        return Statement(_INSERT, values)

    def _remember(self, rows: Mapping[tuple[str, int, int, int], str]) -> None:
        self._recent.update(rows)
        while len(self._recent) > _REMEMBERED_ROWS:
            self._recent.popitem(last=False)

    def _look_after_claims(self) -> None:
        """What the background thread finds no room for while one write follows another."""
        now_s = time.monotonic()
        if now_s >= self._next_upkeep_s:
            self._next_upkeep_s = now_s + 1.0
            with suppress(StorageError):  # tried again, and they run out by themselves
                self._claims.release()

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """Nothing: a mark cannot be committed together with rows of many partitions."""
        return None

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """See the contract; one mutation a minute, which also ends its lease."""
        taken = 0
        with self._lock:
            lines = self._claims.read([(one.device_id, one.minute) for one in finished])
            for one in finished:
                key = (one.device_id, one.minute)
                if self._claims.wrote_alone(key, lines[key]):
                    mutation = self._cache(lines[key], one.device_id, one.seconds, complete=one.complete)
                    self._db.write([[*mutation, self._claims.release_statement(key)]])
                    self._claims.released([key])
                    taken += 1
        return taken

    def _cache(
        self,
        lines: MinuteLines,
        device_id: str,
        seconds: Collection[tuple[int, Digest]],
        *,
        complete: bool,
    ) -> list[Statement]:
        """The statements that keep digests which are true of the rows at ``lines.fingerprint``.

        ``complete``: these are all non-empty seconds of the minute, so that its digest is known too.
        """
        minute, ttl_s, stamp = lines.minute, self._ttl_s(lines.minute), self._stamps.next(2)
        at, time_text = (device_id, ec_date(minute)), ec_time(minute)
        whole = _minute_digest(seconds) if complete else None
        kept: list[tuple[Any, ...]] = [(ec_time(s), "S", d.count, d.md5, None, 0) for s, d in seconds]
        if whole is not None:
            checked = timeuuid(lines.check_time_us) if lines.check_time_us else None
            kept.append((time_text, "P", whole.count, whole.md5, checked, lines.check_times))
        statements = [Statement(_CACHE, (*at, *row, stamp + 1, ttl_s)) for row in kept]
        if lines.digest_version is not None:
            values = (stamp, *at, time_text, ec_time(minute + 59))
            statements.insert(0, Statement(DELETE_DIGESTS, values))
        known = (whole.count, whole.md5) if whole else (0, "") if complete else (None, None)
        values = (ttl_s, stamp + 1, lines.fingerprint, *known, *at, time_text)
        return [*statements, Statement(_KNOWN, values)]

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[tuple[Batch, int]]:
        """See the contract."""
        for minute in range(minute_of(start), stop, MINUTE_S):
            first, last = max(start, minute), min(stop, minute + MINUTE_S) - 1
            for second, rows in self._seconds(device_id, minute, first, last):
                found = [(microseconds(row.insert_time), row) for row in rows]
                for insert_us, row in sorted(found, key=lambda pair: pair[0]):
                    yield _batch(device_id, second, row), insert_us

    def _seconds(self, device_id: str, minute: int, first: int, last: int) -> Iterator[tuple[int, list[Any]]]:
        """``(second, rows)`` of the non-empty seconds of ``[first, last]`` of one minute."""
        date, time_text = ec_date(minute), ec_time(minute)
        found = self._db.read(_ROWS, device_id, date, time_text[:4], ec_time(first), ec_time(last))
        for text, rows in groupby(found, key=lambda row: row.ec_time):
            yield parse_ec(date, text), list(rows)

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        for _, rows in self._seconds(device_id, minute_of(second), second, second):
            return _text(rows)
        return ""

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        lines = self._lines(device_id, minute, minute + MINUTE_S).get(minute, MinuteLines(minute))
        found, kept = self._digests_of(device_id, lines, from_rows=from_rows)
        self._db.write([kept] if kept else [])
        return found

    def _digests_of(
        self, device_id: str, lines: MinuteLines, *, from_rows: bool
    ) -> tuple[list[tuple[int, Digest]], list[Statement]]:
        """The seconds' digests of one minute, and the mutation that keeps them where they were computed."""
        if from_rows:
            return self._compute(device_id, lines)
        if not lines.was_written:
            return [], []
        known, whole = lines.minute_digest(_now_us())
        cached = self._cached_seconds(device_id, lines) if lines.has_digests(_now_us()) else {}
        if known and _minute_digest(sorted(cached.items())) == whole:
            return sorted(cached.items()), []
        return self._compute(device_id, lines, {} if known else cached)

    def _cached_seconds(self, device_id: str, lines: MinuteLines) -> dict[int, Digest]:
        rows = self._digest_rows(device_id, lines.minute)
        return {s: Digest(row.values_count, row.values_checksum) for s, row in rows if row.ec_type == "S"}

    def _digest_rows(self, device_id: str, minute: int) -> list[tuple[int, Any]]:
        date = ec_date(minute)
        found = self._db.read(_DIGESTS, device_id, date, ec_time(minute), ec_time(minute + 59))
        return [(parse_ec(date, row.ec_time), row) for row in found if row.values_checksum is not None]

    def _compute(
        self, device_id: str, lines: MinuteLines, known: Mapping[int, Digest] | None = None
    ) -> tuple[list[tuple[int, Digest]], list[Statement]]:
        """Digests from the rows, and what keeps them as true at the fingerprint read before the rows.

        Rows that another program brought to a minute, or took from it, count as a write of this store.
        """
        minute = lines.minute
        digests = dict(known or {})
        for second, rows in self._unknown_seconds(device_id, minute, digests):
            digest = second_digest(_text(rows))
            if digest:
                digests[second] = Digest(*digest)
        found = sorted(digests.items())
        if self._read_only or not (found or lines.was_written):
            return found, []
        was_known, before = lines.minute_digest(_now_us())
        if (was_known and before != _minute_digest(found)) or not lines.was_written:
            lines = self._count_as_written(device_id, minute)
        return found, self._cache(lines, device_id, found, complete=True)

    def _unknown_seconds(
        self, device_id: str, minute: int, known: Mapping[int, Digest]
    ) -> Iterator[tuple[int, list[Any]]]:
        if not known:
            yield from self._seconds(device_id, minute, minute, minute + MINUTE_S - 1)
            return
        for second in [s for s in range(minute, minute + MINUTE_S) if s not in known]:
            yield from self._seconds(device_id, minute, second, second)

    def _count_as_written(self, device_id: str, minute: int) -> MinuteLines:
        key = (device_id, minute)
        with self._lock:
            self._claims.hold([key])
            self._claims.touch([key])
            self._claims.spoil([key])
            return self._claims.read([key])[key]

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        lines = self._lines(device_id, start, stop)
        found: list[tuple[int, Digest]] = []
        kept: list[list[Statement]] = []
        for minute in range(start, stop, MINUTE_S) if from_rows else sorted(lines):
            of_minute = lines.get(minute, MinuteLines(minute))
            known, digest = of_minute.minute_digest(_now_us())
            if from_rows or (not known and of_minute.was_written):
                seconds, mutation = self._digests_of(device_id, of_minute, from_rows=from_rows)
                digest = _minute_digest(seconds)
                kept += [mutation] if mutation else []
            if digest is not None:
                found.append((minute, digest))
            if len(kept) >= _KEPT_AT_ONCE:
                self._db.write(kept)
                kept.clear()
        self._db.write(kept)
        return found

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract; the nodes count."""
        minutes = range(minute_of(start), stop, MINUTE_S)
        counted = self._db.read_each(
            _COUNT, [(device_id, ec_date(minute), ec_time(minute)[:4]) for minute in minutes]
        )
        return [(m, row.rows, row.samples) for m, (row,) in zip(minutes, counted) if row.rows]

    def _lines(self, device_id: str, start: int, stop: int) -> dict[int, MinuteLines]:
        """What is on record of the minutes of ``[start, stop)``, abandoned lines settled."""
        found = self._read_lines(device_id, start, stop)
        now_us = _now_us()
        abandoned = [(minute, *one) for minute, lines in found.items() for one in lines.abandoned(now_us)]
        if not abandoned or self._read_only:
            return found
        self._db.write(
            [Statement(_SETTLE, (self._ttl_s(minute), version, *_at(device_id, minute), writer + SETTLED))]
            for minute, writer, version in abandoned
        )
        return self._read_lines(device_id, start, stop)

    def _read_lines(self, device_id: str, start: int, stop: int) -> dict[int, MinuteLines]:
        found: dict[int, MinuteLines] = {}
        for first, last in _days_of(start, stop):
            span = (ec_time(first), ec_time(last - 1))
            rows = self._db.read(LINES, device_id, ec_date(first), *span)
            found |= minutes_of_rows(ec_date(first), rows)
        return found

    # --- proof ----------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract. ``last_seen`` carries its moment as timestamp, so the latest always wins."""
        unknown = [device_id for device_id in seen if device_id not in self._first_seen]
        cql = "SELECT first_seen FROM ec_device WHERE device_id = ?"
        for device_id, rows in zip(unknown, self._db.read_each(cql, [(d,) for d in unknown])):
            if rows and rows[0].first_seen:
                self._first_seen[device_id] = microseconds(rows[0].first_seen)
        self._db.write(self._note(device_id, seen_us) for device_id, seen_us in seen.items())
        for device_id, seen_us in seen.items():
            self._first_seen[device_id] = min(seen_us, self._first_seen.get(device_id, seen_us))

    def _note(self, device_id: str, seen_us: int) -> list[Statement]:
        moment = timeuuid(seen_us)
        last = "UPDATE ec_device USING TIMESTAMP ? SET last_seen = ? WHERE device_id = ?"
        statements = [Statement(last, (seen_us, moment, device_id))]
        if seen_us < self._first_seen.get(device_id, seen_us + 1):
            first = "UPDATE ec_device SET first_seen = ? WHERE device_id = ?"
            statements.append(Statement(first, (moment, device_id)))
        return statements

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        found = self._db.read("SELECT * FROM ec_device")
        return sorted((self._device(row) for row in found if row.last_seen), key=lambda d: d.device_id)

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        for row in self._db.read("SELECT * FROM ec_device WHERE device_id = ?", device_id):
            return self._device(row) if row.last_seen else None
        return None

    def _device(self, row: Any) -> DeviceRecord:
        notes = list(
            self._db.read("SELECT state, extra, conflicts FROM ec_notable WHERE device_id = ?", row.device_id)
        )
        states = [note.state for note in notes]
        return DeviceRecord(
            row.device_id,
            microseconds(row.first_seen or row.last_seen),
            microseconds(row.last_seen),
            self._verified_through(row),
            states.count(MinuteState.UNRESOLVED.value),
            states.count(MinuteState.UNCONFIRMABLE.value),
            sum(note.conflicts or 0 for note in notes),
            sum(note.extra or 0 for note in notes),
        )

    def _verified_through(self, row: Any) -> int | None:
        """Read anew only where a version or a comparison was added: people look, and look again."""
        if row.verified_through is None:
            return None
        start, through = parse_minute(row.verified_from), parse_minute(row.verified_through)
        days = self._days(row.device_id)
        dates = [
            ec_date(a) for a, _ in _days_of(start, through) if not days.get(ec_date(a), _NO_DAY).is_final(a)
        ]
        changes = self._db.read_each(_CHANGES, [(row.device_id, date) for date in dates])
        seen = (start, through, days, [tuple(one) for (one,) in changes])
        at_s, memo, known = self._through.get(row.device_id, (0.0, None, None))
        if memo != seen or time.monotonic() - at_s > _MEMO_S:
            open_ranges = self.unproven_ranges(row.device_id, start, through)
            known = open_ranges[0][0] if open_ranges else through
            self._through[row.device_id] = (time.monotonic(), seen, known)
        return known

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        for date, day in sorted(self._days(device_id).items()):
            start = parse_ec(date, "000000")
            for minute, lines in self._read_lines(device_id, start, start + DAY_S).items():
                key = (device_id, date, ec_time(minute)[:4])
                if day.fingerprint and lines.was_written and list(self._db.read(_ANY_ROW, *key)):
                    return minute
        return None

    def _days(self, device_id: str) -> dict[str, _Day]:
        found: dict[str, _Day] = {}
        for date, group in groupby(self._db.read(_DAYS, device_id), key=lambda row: row.ec_date):
            rows = list(group)
            whole = fingerprint((row.writer, row.version) for row in rows if row.writer and row.version)
            own = [row for row in rows if not row.writer]
            record = (own[0].proven_from, own[0].proven_version, own[0].sealed_version) if own else ()
            found[date] = _Day(whole, *record)
        return found

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract. A day that is known to be final as a whole is not looked at again."""
        days = self._days(device_id)
        final: list[tuple[int, int]] = []
        for first, last in _days_of(start, stop):
            date = ec_date(first)
            day = days.get(date, _NO_DAY)
            if day.is_final(first):
                final.append((first, last))
                continue
            now_us = _now_us()
            lines = self._lines(device_id, first, last)
            proven = ranges.of_minutes(m for m, one in lines.items() if one.verdict(now_us) in FINAL)
            final += proven
            is_over = last == day_of(first) + DAY_S and not any(one.is_leased for one in lines.values())
            if is_over and proven == [(first, last)] and not self._read_only:
                values = (self._ttl_s(first), ec_time(first)[:4], day.fingerprint, device_id, date)
                self._db.write([[Statement(_DAY_PROVEN, values)]])
        return ranges.subtract([(start, stop)], final)

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract. A verdict holds for the versions at which the digest was the one compared."""
        if not verdicts:
            return []
        with self._lock:
            minutes = [verdict.minute for verdict in verdicts]
            self._claims.release([(device_id, minute) for minute in minutes])
            lines = self._lines(device_id, min(minutes), max(minutes) + MINUTE_S)
        changed = []
        mutations: list[list[Statement]] = []
        for verdict in verdicts:
            of_minute, now = self._current(device_id, lines.get(verdict.minute, MinuteLines(verdict.minute)))
            if now == verdict.seen:
                mutations += self._verdict(device_id, of_minute, verdict, compared_us)
            else:
                changed.append(verdict.minute)
                values = (timeuuid(compared_us), of_minute.check_times + 1, *_at(device_id, of_minute.minute))
                stamped = (self._ttl_s(of_minute.minute), self._stamps.next(), *values)
                mutations.append([Statement(_COMPARED, stamped)])
        self._db.write(mutations)
        self._reopen_days(device_id, [v.minute for v in verdicts if v.state not in FINAL])
        return changed

    def _current(self, device_id: str, lines: MinuteLines) -> tuple[MinuteLines, Digest | None]:
        """The lines, and the minute digest that is true at their fingerprint."""
        known, digest = lines.minute_digest(_now_us())
        if known or not lines.was_written:
            return lines, digest
        digests, kept = self._compute(device_id, lines)
        self._db.write([kept] if kept else [])
        return lines, _minute_digest(digests)

    def _verdict(
        self, device_id: str, lines: MinuteLines, verdict: Verdict, compared_us: int
    ) -> list[list[Statement]]:
        minute, moment = lines.minute, timeuuid(compared_us)
        ttl_s, stamp, at = self._ttl_s(minute), self._stamps.next(), _at(device_id, minute)
        conflicts = lines.conflicts + verdict.conflicts
        outcome = (verdict.state.value, lines.fingerprint, verdict.extra, conflicts)
        statements = [Statement(_VERDICT, (ttl_s, stamp, *outcome, moment, lines.check_times + 1, *at))]
        for second, row in self._digest_rows(device_id, minute) if verdict.seen else ():
            times = lines.check_times + 1 if row.ec_type == "P" else (row.check_times or 0) + 1
            where = (*at[:2], ec_time(second), row.ec_type)
            statements.append(Statement(_CHECKED, (ttl_s, stamp, moment, times, *where)))
        is_notable = verdict.extra or conflicts or _is_listed(verdict)
        note = [Statement(_NOTE, (*at, verdict.state.value, verdict.extra, conflicts, ttl_s))]
        was_notable = lines.extra or lines.conflicts or lines.state not in (None, MinuteState.PROVEN)
        if is_notable:
            return [statements, note]
        return [statements, [Statement(_UNNOTE, at)]] if was_notable else [statements]

    def _reopen_days(self, device_id: str, minutes: Collection[int]) -> None:
        """A day with an unresolved minute is not final, whatever was known of it."""
        days = {day_of(minute) for minute in minutes}
        values = [(self._ttl_s(day), None, None, device_id, ec_date(day)) for day in days]
        self._db.write([Statement(_DAY_PROVEN, one)] for one in values)

    def record_progress(self, device_id: str, start: int, verified_through: int) -> None:
        """See the contract."""
        cql = "UPDATE ec_device SET verified_from = ?, verified_through = ? WHERE device_id = ?"
        values = (minute_text(start), minute_text(verified_through), device_id)
        self._db.write([[Statement(cql, values)]])

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        now_us = _now_us()
        lines = self._lines(device_id, start, stop)
        records = [lines[minute].record(now_us) for minute in sorted(lines)]
        return [r for r in records if lines[r.minute].was_written or r.check_times]

    # --- keeping --------------------------------------------------------------------------

    def _device_ids(self) -> list[str]:
        return sorted(row.device_id for row in self._db.read("SELECT DISTINCT device_id FROM ec_day"))

    def unsealed_minutes(self, before: int) -> list[tuple[str, int]]:
        """See the contract. A day all of whose digests are cached is not looked at again."""
        found = []
        for device_id in self._device_ids():
            for date, day in sorted(self._days(device_id).items()):
                start = parse_ec(date, "000000")
                if day.sealed_version == day.fingerprint or start >= before:
                    continue
                lines, now_us = self._lines(device_id, start, start + DAY_S), _now_us()
                waiting = [
                    m
                    for m, one in sorted(lines.items())
                    if one.was_written and not one.minute_digest(now_us)[0]
                ]
                found += [(device_id, m) for m in waiting if m + MINUTE_S <= before]
                is_over = start + DAY_S <= before and not any(one.is_leased for one in lines.values())
                if is_over and not waiting and not self._read_only:
                    values = (self._ttl_s(start), day.fingerprint, device_id, date)
                    self._db.write([[Statement(_DAY_SEALED, values)]])
        return sorted(found, key=lambda pair: pair[1])

    def remove_before(self, day: int) -> list[str]:
        """See the contract. Rows carry their own end too (``storage.retention_days``)."""
        gone = set()
        for device_id in self._device_ids():
            for date, one in self._days(device_id).items():
                if parse_ec(date, "000000") < day:
                    self._remove_day(device_id, date)
                    if one.fingerprint:
                        gone.add(date)
        return sorted(gone)

    def _remove_day(self, device_id: str, date: str) -> None:
        start = parse_ec(date, "000000")
        with self._lock:
            for table in ("ec_minute", "ec_checksum"):
                cql = f"DELETE FROM {table} WHERE device_id = ? AND ec_date = ?"  # noqa: S608
                self._db.write([[Statement(cql, (device_id, date))]])
            cql = "DELETE FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
            minutes = [ec_time(minute)[:4] for minute in range(start, start + DAY_S, MINUTE_S)]
            self._db.write([Statement(cql, (device_id, date, minute))] for minute in minutes)
            for table in ("ec_notable", "ec_day"):
                cql = f"DELETE FROM {table} WHERE device_id = ? AND ec_date = ?"  # noqa: S608
                self._db.write([[Statement(cql, (device_id, date))]])


def open_cassandra_store(settings: Settings, *, read_only: bool = False) -> CassandraStore:
    """The store of a configuration; up to 20 s for the first attempt to connect.

    A cluster that does not answer is no error: the store says so in ``health`` and goes on trying.
    Raises ConfigurationError where it answers and refuses.
    """
    store = CassandraStore(
        target_of(settings), read_only=read_only, retention_days=settings.storage_retention_days
    )
    store.wait(_FIRST_CONNECTION_S)
    return store


def target_of(settings: Settings) -> Target:
    """The ``cassandra.`` keys of a configuration."""
    return Target(
        host=settings.cassandra_host,
        port=settings.cassandra_port,
        keyspace=settings.cassandra_keyspace,
        username=settings.cassandra_username,
        password=settings.cassandra_password,
        local_dc=settings.cassandra_local_dc,
        consistency=settings.cassandra_consistency,
        replication=settings.cassandra_replication,
        tls_ca=settings.cassandra_tls_ca,
        tls_certificate=settings.cassandra_tls_certificate,
        tls_key=settings.cassandra_tls_key,
    )


def _window_hours(retention_days: int) -> int:
    """Hours of one window of the compaction: a day, or about a thirtieth of a short retention."""
    return min(24, max(1, retention_days * 24 // 30)) if retention_days else 24


def _chunks(rows: Mapping[Key, Sequence[tuple[Batch, int]]]) -> Iterator[Sequence[tuple[Batch, int]]]:
    for of_minute in rows.values():
        for i in range(0, len(of_minute), _ROWS_A_BATCH):
            yield of_minute[i : i + _ROWS_A_BATCH]


def _days_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """``[start, stop)`` cut at midnights."""
    while start < stop:
        last = min(stop, day_of(start) + DAY_S)
        yield start, last
        start = last


def _at(device_id: str, minute: int) -> tuple[str, str, str]:
    return device_id, ec_date(minute), ec_time(minute)


def _batch(device_id: str, second: int, row: Any) -> Batch:
    return Batch(
        device_id,
        second,
        int(row.start_us),
        int(row.end_us),
        row.ec_consumption_values,
        row.values_count,
        row.values_checksum,
    )


def _text(rows: Iterable[Any]) -> str:
    """One second's canonical text from its rows in any order."""
    ranked = sorted(rows, key=lambda row: row.insert_time.time)
    return join_rows((int(row.start_us), int(row.end_us), row.ec_consumption_values) for row in ranked)


def _minute_digest(seconds: Iterable[tuple[int, Digest]]) -> Digest | None:
    digest = minute_digest((ec_time(s), d.count, d.md5) for s, d in seconds)
    return Digest(*digest) if digest else None


def _is_listed(verdict: Verdict) -> bool:
    """Whether a verdict is to be counted for its device: unresolved, or not confirmable though stored."""
    if verdict.state is MinuteState.UNCONFIRMABLE:
        return verdict.seen is not None
    return verdict.state is not MinuteState.PROVEN


def _now_us() -> int:
    return time.time_ns() // 1000
