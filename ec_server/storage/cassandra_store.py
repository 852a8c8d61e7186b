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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

from configuration.settings import Settings
from ec_server.storage import ranges
from ec_server.storage.cassandra_claims import Claims, Key
from ec_server.storage.cassandra_clock import Stamps
from ec_server.storage.cassandra_devices import Devices
from ec_server.storage.cassandra_minutes import FINAL, MinuteLines
from ec_server.storage.cassandra_record import NO_DAY, Records, by_day, digest_of_minute, now
from ec_server.storage.cassandra_rows import Inserted, Rows, pieces, text_of
from ec_server.storage.contract import FinishedMinute, ReplacedRow, StorageHealth, Store
from ec_server.storage.merge import RepairedSecond, merged, single_day
from ec_server.storage.recent_rows import RecentRows, RowKey
from utilities.cassandra_util import Database, Statement, Target
from utilities.checksum_util import second_digest
from utilities.errors import StorageError
from utilities.model import (
    Batch,
    CommitMark,
    DeviceRecord,
    Digest,
    MinuteRecord,
    MinuteState,
    StoredRow,
    Verdict,
    WriteResult,
)
from utilities.utc import DAY_S, MINUTE_S, day_of, ec_date, minute_of, parse_ec

_SCHEMA = Path(__file__).with_name("schema") / "cassandra.cql"
_FIRST_CONNECTION_S = 20.0
_REMEMBERED_ROWS = 100_000
_LONGEST_TTL_S = 20 * 365 * DAY_S  # Cassandra's own limit
_KEPT_AT_ONCE = 32
_UPKEEP_S = 1.0

_Digests = list[tuple[int, Digest]]


class CassandraStore(Store):
    """One connection to a cluster; see the module's rules."""

    def __init__(self, target: Target, *, read_only: bool = False, retention_days: int = 0) -> None:
        """Begin to connect; ``wait`` tells how that went. ``retention_days`` 0 keeps for ever."""
        self._read_only = read_only
        self._retention_s = retention_days * DAY_S
        self._lock = threading.RLock()
        self._recent = RecentRows(_REMEMBERED_ROWS)
        self._next_upkeep_s = 0.0
        self._stamps = Stamps()
        tables = Template(_SCHEMA.read_text("utf-8")).substitute(window_hours=_window_hours(retention_days))
        self._db = Database(target, tables, read_only=read_only, on_tick=self._upkeep)
        self._claims = Claims(self._db, uuid.uuid4().hex[:16], self._stamps, self._ttl_s)
        self._rows = Rows(self._db, self._ttl_s)
        self._records = Records(self._db, self._stamps, self._ttl_s, read_only=read_only)
        self._devices = Devices(self._db, self._records, self.unproven_ranges)

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

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """See the contract and rules 1 to 3; a mark cannot be committed with rows of many partitions."""
        if mark is None:
            return self._write(batches, lambda: self._write_carefully(batches))
        return self._write(batches, lambda: self._write_blindly(batches, None))

    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """See the contract and rule 4."""
        return self._write(batches, lambda: self._write_carefully(batches, is_repair=True))

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """See the contract. The minutes of a replay are not published."""
        batches = [row.batch for row in rows]
        result = self._write(batches, lambda: self._write_blindly(batches, [row.rank for row in rows]))
        with self._lock:
            self._claims.spoil({(b.device_id, minute_of(b.second)) for b in batches}, is_in_doubt=False)
        return result

    def _write(self, batches: Sequence[Batch], write: Callable[[], WriteResult]) -> WriteResult:
        if single_day(batches) is None:
            return WriteResult(())
        with self._lock:
            try:
                result = write()
            except StorageError:
                self._claims.spoil({(b.device_id, minute_of(b.second)) for b in batches}, is_in_doubt=True)
                raise
            self._look_after_claims()
            return result

    def _write_blindly(self, batches: Sequence[Batch], ranks: Sequence[int] | None) -> WriteResult:
        first_us = self._stamps.next(len(batches)) if ranks is None else 0
        moments = range(first_us, first_us + len(batches)) if ranks is None else ranks
        rows: dict[Key, list[Inserted]] = {}
        fresh: dict[RowKey, str] = {}
        met: list[StoredRow] = []
        changed = []
        for batch, moment_us in zip(batches, moments):
            key, checksum = batch.key, batch.checksum
            earlier = fresh.setdefault(key, checksum)
            is_same = self._recent.is_same(key, checksum) if earlier is checksum else earlier == checksum
            changed.append(not is_same)
            if is_same is None:
                rows.setdefault((batch.device_id, minute_of(batch.second)), []).append((batch, moment_us))
            elif not is_same:
                met.append(StoredRow(batch, moment_us, moment_us))
        opened = self._store_rows(rows, pieces(rows))
        self._recent.add((batch.key, batch.checksum) for of_minute in rows.values() for batch, _ in of_minute)
        if met:
            self._write_carefully([row.batch for row in met], met if ranks is not None else ())
        return WriteResult(tuple(changed), opened)

    def _write_carefully(
        self, batches: Sequence[Batch], replayed: Sequence[StoredRow] = (), *, is_repair: bool = False
    ) -> WriteResult:
        """Rule 4: read the seconds, merge, and change each in one mutation; ``replayed`` keep their ranks."""
        stored, latest_us = self._stored_seconds({(b.device_id, b.second) for b in batches})
        first_us = max(self._stamps.next(len(batches)), latest_us + 1)
        result: dict[tuple[str, int], dict[RowKey, Inserted]] = {}
        seconds = {at: RepairedSecond(rows.values()) for at, rows in stored.items()} if is_repair else {}
        changed = []
        for i, arrived in enumerate(batches):
            at_us = first_us + i
            at = (arrived.device_id, arrived.second)
            of_second = stored[at]
            row = replayed[i] if replayed else StoredRow(arrived, at_us, at_us)
            after = seconds[at].after(arrived) if is_repair else _after_arrival(of_second, row)
            changed.append(after is not None)
            if after is not None:
                of_second[after.key] = StoredRow(after, at_us, at_us)
                result.setdefault((after.device_id, after.second), {})[after.key] = (after, at_us)
        keys = {(device_id, minute_of(second)) for device_id, second in result}
        opened = self._store_rows(keys, [list(rows.values()) for rows in result.values()])
        self._recent.add(
            (key, batch.checksum) for rows in result.values() for key, (batch, _) in rows.items()
        )
        return WriteResult(tuple(changed), opened)

    def _stored_seconds(
        self, seconds: Iterable[tuple[str, int]]
    ) -> tuple[dict[tuple[str, int], dict[RowKey, StoredRow]], int]:
        """The rows of some seconds, and the latest moment of insertion among them."""
        stored: dict[tuple[str, int], dict[RowKey, StoredRow]] = {}
        latest_us = 0
        for device_id, second in seconds:
            of_second = stored[device_id, second] = {
                batch.key: StoredRow(batch, at_us, at_us)
                for batch, at_us in self._rows.between(device_id, second, second + 1)
            }
            latest_us = max([latest_us, *(row.rank for row in of_second.values())])
        return stored, latest_us

    def _store_rows(self, keys: Collection[Key], groups: Iterable[Sequence[Inserted]]) -> frozenset[Key]:
        """Lines, rows, new versions, in that order; returns the minutes that this opened."""
        if not keys:
            return frozenset()
        self._claims.hold(keys)
        self._rows.write(groups)
        return self._claims.touch(keys)

    def _look_after_claims(self) -> None:
        """What the background thread finds no room for while one write follows another."""
        now_s = time.monotonic()
        if now_s >= self._next_upkeep_s:
            self._next_upkeep_s = now_s + _UPKEEP_S
            with suppress(StorageError):  # tried again, and they run out by themselves
                self._claims.release()

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """Nothing yet: this engine keeps no replaced rows."""

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """Nothing: a mark cannot be committed together with rows of many partitions."""
        return None

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """See the contract; one mutation a minute, which also ends its lease."""
        with self._lock:
            lines = self._claims.read([(one.device_id, one.minute) for one in finished])
            taken: dict[Key, list[Statement]] = {}
            for one in finished:
                key = (one.device_id, one.minute)
                if self._claims.wrote_alone(key, lines[key]):
                    kept = self._records.keep(lines[key], one.device_id, one.seconds, complete=one.complete)
                    taken[key] = [*kept, self._claims.release_statement(key)]
            self._db.write(taken.values())
            self._claims.released(taken)
        return len(taken)

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """See the contract; a row's rank is the moment of its insertion."""
        for batch, at_us in self._rows.between(device_id, start, stop):
            yield StoredRow(batch, at_us, at_us)

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """See the contract."""
        return []

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        for _, rows in self._rows.seconds(device_id, second, second):
            return text_of(rows)
        return ""

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract; the nodes count."""
        return self._rows.counts(device_id, start, stop)

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        lines = self._records.of_minute(device_id, minute)
        found, kept = self._digests_of(device_id, lines, from_rows=from_rows)
        self._db.write([kept] if kept else [])
        return found

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        lines = self._records.lines(device_id, start, stop)
        found: _Digests = []
        kept: list[list[Statement]] = []
        for minute in range(start, stop, MINUTE_S) if from_rows else sorted(lines):
            of_minute = lines.get(minute, MinuteLines(minute))
            known, digest = of_minute.minute_digest(now())
            if from_rows or (not known and of_minute.was_written):
                seconds, mutation = self._digests_of(device_id, of_minute, from_rows=from_rows)
                digest = digest_of_minute(seconds)
                kept += [mutation] if mutation else []
            if digest is not None:
                found.append((minute, digest))
            if len(kept) >= _KEPT_AT_ONCE:
                self._db.write(kept)
                kept.clear()
        self._db.write(kept)
        return found

    def _digests_of(
        self, device_id: str, lines: MinuteLines, *, from_rows: bool
    ) -> tuple[_Digests, list[Statement]]:
        """The seconds' digests of one minute, and the mutation that keeps them where they were computed."""
        if from_rows:
            return self._compute(device_id, lines, {})
        if not lines.was_written:
            return [], []
        known, whole = lines.minute_digest(now())
        cached = self._records.cached_seconds(device_id, lines.minute) if lines.has_digests(now()) else {}
        if known and digest_of_minute(sorted(cached.items())) == whole:
            return sorted(cached.items()), []
        return self._compute(device_id, lines, {} if known else cached)

    def _compute(
        self, device_id: str, lines: MinuteLines, cached: Mapping[int, Digest]
    ) -> tuple[_Digests, list[Statement]]:
        """Digests from the rows, and what keeps them as true at the fingerprint read before the rows.

        Rows that another program brought to a minute, or took from it, count as a write of this store:
        a new version first, and the rows read again after it.
        """
        found = self._read_digests(device_id, lines.minute, cached)
        if self._read_only or not (found or lines.was_written):
            return found, []
        known, before = lines.minute_digest(now())
        if (known and before != digest_of_minute(found)) or not lines.was_written:
            lines = self._count_as_written(device_id, lines.minute)
            found = self._read_digests(device_id, lines.minute, {})
        return found, self._records.keep(lines, device_id, found, complete=True)

    def _read_digests(self, device_id: str, minute: int, cached: Mapping[int, Digest]) -> _Digests:
        """The digests of the minute's non-empty seconds; those that are not cached from the rows."""
        digests = dict(cached)
        for second, rows in self._uncached_seconds(device_id, minute, cached):
            digest = second_digest(text_of(rows))
            if digest:
                digests[second] = Digest(*digest)
        return sorted(digests.items())

    def _uncached_seconds(
        self, device_id: str, minute: int, cached: Mapping[int, Digest]
    ) -> Iterator[tuple[int, list[Any]]]:
        if not cached:
            yield from self._rows.seconds(device_id, minute, minute + MINUTE_S - 1)
            return
        for second in [s for s in range(minute, minute + MINUTE_S) if s not in cached]:
            yield from self._rows.seconds(device_id, second, second)

    def _count_as_written(self, device_id: str, minute: int) -> MinuteLines:
        key = (device_id, minute)
        with self._lock:
            self._claims.hold([key])
            self._claims.touch([key])
            self._claims.spoil([key], is_in_doubt=False)
            return self._claims.read([key])[key]

    # --- proof ----------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract."""
        self._devices.note(seen)

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        return self._devices.all()

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        return self._devices.one(device_id)

    def note_coverage(self, device_id: str, start: int) -> None:
        """See the contract."""
        self._devices.note_coverage(device_id, start)

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        for date, day in self._records.days(device_id).items():
            start = parse_ec(date, "000000")
            lines = self._records.lines(device_id, start, start + DAY_S) if day.fingerprint else {}
            for minute in sorted(lines):
                if lines[minute].was_written and self._rows.has_any(device_id, minute):
                    return minute
        return None

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract. A day that is known to be final as a whole is not looked at again."""
        days = self._records.days(device_id)
        final: list[tuple[int, int]] = []
        for first, last in by_day(start, stop):
            day = days.get(ec_date(first), NO_DAY)
            if day.is_final(first):
                final.append((first, last))
                continue
            now_us, lines = now(), self._records.lines(device_id, first, last)
            proven = ranges.of_minutes(m for m, one in lines.items() if one.verdict(now_us) in FINAL)
            final += proven
            is_over = last == day_of(first) + DAY_S and not any(one.is_leased for one in lines.values())
            if is_over and proven == [(first, last)] and not self._read_only:
                self._records.day_is_final(device_id, first, day)
        return ranges.subtract([(start, stop)], final)

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        now_us = now()
        found = [
            minute
            for first, last in by_day(start, stop)
            for minute, one in self._records.lines(device_id, first, last).items()
            if one.verdict(now_us) in states
        ]
        return ranges.of_minutes(found)

    def stored_days(self) -> list[tuple[str, int]]:
        """See the contract; reads every partition's key."""
        keys = self._db.read("SELECT DISTINCT device_id, ec_date, ec_minute FROM ec_consumption")
        return sorted({(key.device_id, parse_ec(key.ec_date, "000000")) for key in keys})

    def latest_second(self) -> int | None:
        """See the contract; to the day, of the days on record."""
        days = [
            parse_ec(date, "000000")
            for device_id in self._records.device_ids()
            for date, day in self._records.days(device_id).items()
            if day.fingerprint
        ]
        return max(days) + DAY_S - 1 if days else None

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract. A verdict holds for the versions at which the digest was the one compared."""
        if not verdicts:
            return []
        minutes = [verdict.minute for verdict in verdicts]
        with self._lock:
            self._claims.release([(device_id, minute) for minute in minutes])
        lines = self._records.lines(device_id, min(minutes), max(minutes) + MINUTE_S)
        changed = []
        mutations: list[list[Statement]] = []
        for verdict in verdicts:
            of_minute = lines.get(verdict.minute, MinuteLines(verdict.minute))
            if self._digest_now(device_id, of_minute) == verdict.seen:
                mutations += self._records.verdict(device_id, of_minute, verdict, compared_us)
            else:
                changed.append(verdict.minute)
                mutations.append(self._records.compared(device_id, of_minute, compared_us))
        self._db.write(mutations)
        self._records.reopen_days(device_id, [v.minute for v in verdicts if v.state not in FINAL])
        return changed

    def _digest_now(self, device_id: str, lines: MinuteLines) -> Digest | None:
        """The minute digest that is true at the lines' fingerprint."""
        known, digest = lines.minute_digest(now())
        if known or not lines.was_written:
            return digest
        digests, kept = self._compute(device_id, lines, {})
        self._db.write([kept] if kept else [])
        return digest_of_minute(digests)

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        now_us, lines = now(), self._records.lines(device_id, start, stop)
        known = [lines[minute] for minute in sorted(lines)]
        return [one.record(now_us) for one in known if one.was_written or one.check_times]

    # --- keeping --------------------------------------------------------------------------

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """See the contract. A day all of whose digests are cached is not looked at again."""
        found = []
        for device_id in self._records.device_ids():
            for date, day in self._records.days(device_id).items():
                start = parse_ec(date, "000000")
                if day.is_sealed or start >= before:
                    continue
                now_us, lines = now(), self._records.lines(device_id, start, start + DAY_S)
                waiting = [
                    m for m, one in lines.items() if one.was_written and not one.minute_digest(now_us)[0]
                ]
                found += [(device_id, m) for m in waiting if m + MINUTE_S <= before]
                is_over = start + DAY_S <= before and not any(one.is_leased for one in lines.values())
                if is_over and not waiting and not self._read_only:
                    self._records.day_is_sealed(device_id, start, day)
        return sorted(found, key=lambda pair: pair[1])

    def remove_before(self, day: int) -> list[str]:
        """See the contract. Rows carry their own end too (``storage.retention_days``)."""
        gone = set()
        for device_id in self._records.device_ids():
            for date, one in self._records.days(device_id).items():
                start = parse_ec(date, "000000")
                if start < day:
                    self._rows.remove_day(device_id, start)
                    self._records.remove_day(device_id, start)
                    gone |= {date} if one.fingerprint else set()
        return sorted(gone)


def _after_arrival(of_second: Mapping[RowKey, StoredRow], arrived: StoredRow) -> Batch | None:
    before = of_second.get(arrived.batch.key)
    return arrived.batch if before is None else merged(list(of_second.values()), before, arrived)


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
