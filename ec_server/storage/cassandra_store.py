"""The storage contract on Cassandra: bounded partitions, idempotent writes, conclusions with versions.

Rules (for several writers and readers of one minute see cassandra_minutes.py, for rows cassandra_writes.py):

1. A write is atomic per partition, not as a whole: if it raises, some rows may be stored. The caller repeats
   the same batches, with the same result as if they had been written once.
2. If another program changes single rows of ``ec_consumption``, this is noticed when the rows are read
   (``from_rows``), not before, as Cassandra has no suitable triggers. If a partition, a table or a snapshot
   reverts to an older state, its digests and verdicts do so at once.
3. The database may be unavailable at any time, including at the start: calls then fail immediately with
   RetryableStorageError, and the connection is restored automatically (utilities/cassandra_util.py).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from ec_server.storage import ranges
from ec_server.storage.cassandra_backlog import Backlog
from ec_server.storage.cassandra_blocks import Blocks
from ec_server.storage.cassandra_claims import Claims, Key
from ec_server.storage.cassandra_clock import Stamps, now
from ec_server.storage.cassandra_days import Days
from ec_server.storage.cassandra_devices import Devices
from ec_server.storage.cassandra_digests import Digests
from ec_server.storage.cassandra_layout import tables_cql
from ec_server.storage.cassandra_lifetime import Lifetime
from ec_server.storage.cassandra_minutes import MinuteLines
from ec_server.storage.cassandra_packing import Packing
from ec_server.storage.cassandra_record import Records
from ec_server.storage.cassandra_rows import Rows
from ec_server.storage.cassandra_settled import Settled
from ec_server.storage.cassandra_writes import Writes
from ec_server.storage.contract import FinishedMinute, Packed, ReplacedRow, StorageHealth, Store, StoredBytes
from ec_server.storage.merge import single_day
from utilities.cassandra_target import Target
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.errors import StorageError
from utilities.model import (
    SETTLED,
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
from utilities.utc import DAY_S, MINUTE_S, minute_of, parse_ec

_UPKEEP_S = 1.0

_Rows = TypeVar("_Rows")


class CassandraStore(Store):
    """One connection to a cluster; see the module's rules."""

    def __init__(
        self, target: Target, *, read_only: bool = False, retention_days: int = 0, packs: bool = False
    ) -> None:
        """Begin to connect; ``wait`` reports the result. ``retention_days`` 0 keeps data forever.

        ``packs``: rows will be packed; tables that are created now get a compaction strategy for that.
        """
        self._read_only = read_only
        self._lifetime = Lifetime(retention_days)
        self._lock = threading.RLock()
        self._next_upkeep_s = 0.0
        self._stamps = Stamps()
        tables = tables_cql(retention_days, packs=packs)
        self._db = Database(target, tables, read_only=read_only, on_tick=self._upkeep)
        self._claims = Claims(self._db, uuid.uuid4().hex[:16], self._stamps, self._ttl_s)
        blocks = Blocks(self._db, self._ttl_s)
        self._rows = Rows(self._db, blocks, self._ttl_s, self._claims.deleted_until)
        self._writes = Writes(self._claims, self._rows, self._stamps)
        self._records = Records(self._db, self._stamps, self._ttl_s, read_only=read_only)
        self._days = Days(self._db, self._ttl_s)
        self._settled = Settled(self._records, self._days, read_only=read_only)
        self._digests = Digests(
            self._db, self._records, self._rows, self._count_as_written, read_only=read_only
        )
        self._packing = Packing(self._db, blocks, self._records, self._claims, self._stamps, self._ttl_s)
        self._backlog = Backlog(self._records, self._days, read_only=read_only)
        self._devices = Devices(self._db, self._days, self._settled.first_unproven)

    def wait(self, timeout_s: float) -> None:
        """Wait for the first attempt to connect. ConfigurationError if the operator must change a key."""
        try:
            self._db.wait(timeout_s)
        except Exception:
            self._db.close()
            raise

    def close(self) -> None:
        """See the contract; also ends this store's leases, if the database answers."""
        try:
            with self._lock, suppress(StorageError):  # leases expire anyway
                self._claims.release_all()
        finally:
            self._db.close()

    def health(self) -> StorageHealth:
        """See the contract; sends no request, as the connection's own thread checks."""
        answers, trouble = self._db.state()
        return StorageHealth(writable=answers, detail=trouble, damage=self._digests.damage)

    def _upkeep(self) -> None:
        """Release the leases of minutes that were not written to for a while; skipped during a call."""
        if self._lock.acquire(blocking=False):
            try:
                self._claims.release()
            finally:
                self._lock.release()

    def _ttl_s(self, moment: int) -> int:
        """Seconds until retention removes the day of ``moment``; 0 means never."""
        return self._lifetime.ttl_s(moment, int(time.time()))

    # --- ingest ---------------------------------------------------------------------------

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """See the contract; a mark cannot be committed with rows of many partitions."""
        return self._write(self._writes.ingest, batches, batches)

    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """See the contract."""
        return self._write(self._writes.repair, batches, batches)

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """See the contract. The minutes of a replay are not published."""
        batches = [row.batch for row in rows]
        result = self._write(self._writes.replay, rows, batches)
        with self._lock:
            self._claims.spoil({(b.device_id, minute_of(b.second)) for b in batches}, is_in_doubt=False)
        return result

    def _write(
        self, write: Callable[[Sequence[_Rows]], WriteResult], rows: Sequence[_Rows], batches: Sequence[Batch]
    ) -> WriteResult:
        if single_day(batches) is None:
            return WriteResult(())
        with self._lock:
            try:
                result = write(rows)
            except StorageError:
                self._claims.spoil({(b.device_id, minute_of(b.second)) for b in batches}, is_in_doubt=True)
                raise
            self._look_after_claims()
            return result

    def _look_after_claims(self) -> None:
        """Upkeep that the background thread cannot do while one write follows another."""
        now_s = time.monotonic()
        if now_s >= self._next_upkeep_s:
            self._next_upkeep_s = now_s + _UPKEEP_S
            with suppress(StorageError):  # it is tried again, and leases expire anyway
                self._claims.release()

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """See the contract."""
        self._rows.keep(kept)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """None: a mark cannot be committed together with rows of many partitions."""
        return None

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """See the contract; one mutation per minute, which also ends its lease."""
        with self._lock:
            lines = self._claims.read([(one.device_id, one.minute) for one in finished])
            taken: list[Key] = []
            mutations: list[list[Statement]] = []
            for one in finished:
                key = (one.device_id, one.minute)
                if self._claims.wrote_alone(key, lines[key]):
                    taken.append(key)
                    record, proof = self._records.keep(
                        lines[key], one.device_id, one.seconds, complete=one.complete
                    )
                    mutations += [[*record, self._claims.release_statement(key)], proof]
            self._db.write(mutations)
            self._claims.released(taken)
        return len(taken)

    def _count_as_written(self, device_id: str, minute: int) -> MinuteLines:
        key = (device_id, minute)
        with self._lock:
            self._writes.look(key)
            self._claims.hold([key])
            self._claims.touch([key])
            self._claims.spoil([key], is_in_doubt=False)
            return self._claims.read([key])[key]

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """See the contract."""
        return self._rows.between(device_id, start, stop)

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """See the contract."""
        return self._rows.replaced(device_id, start, stop)

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        for found in self._rows.seconds(device_id, second, second):
            return found.text()
        return ""

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract; counted by the nodes."""
        return self._rows.counts(device_id, start, stop)

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return self._digests.of_seconds(device_id, minute, from_rows=from_rows)

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return self._digests.of_minutes(device_id, start, stop, from_rows=from_rows)

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

    def note_reopened(self, device_id: str, reopened: Sequence[tuple[int, int]]) -> None:
        """See the contract."""
        self._devices.note_reopened(device_id, reopened)

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        for date, day in self._days.of_device(device_id).items():
            start = parse_ec(date, "000000")
            lines = self._records.lines(device_id, start, start + DAY_S) if day.fingerprint else {}
            for minute in sorted(lines):
                if lines[minute].was_written and self._rows.has_any(device_id, minute):
                    return minute
        return None

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract, and cassandra_settled.py."""
        return ranges.union(self._settled.unproven(device_id, start, stop))

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        return self._settled.in_states(device_id, start, stop, states)

    def stored_days(self) -> list[tuple[str, int]]:
        """See the contract; reads every partition's key."""
        keys = {
            (key.device_id, key.ec_date)
            for table in ("ec_consumption", "ec_block")
            for key in self._db.read(f"SELECT DISTINCT device_id, ec_date, ec_minute FROM {table}")  # noqa: S608
        }
        return sorted((device_id, parse_ec(date, "000000")) for device_id, date in keys)

    def latest_second(self) -> int | None:
        """See the contract; accurate to the day, of the recorded days."""
        days = [
            parse_ec(date, "000000")
            for device_id in self._days.device_ids()
            for date, day in self._days.of_device(device_id).items()
            if day.fingerprint
        ]
        return max(days) + DAY_S - 1 if days else None

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract. A verdict holds for the versions at which the compared digest was computed."""
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
            if self._digests.now_of(device_id, of_minute) == verdict.seen:
                mutations += self._records.verdict(device_id, of_minute, verdict, compared_us)
            else:
                changed.append(verdict.minute)
                mutations.append(self._records.compared(device_id, of_minute, compared_us))
        self._db.write(mutations)
        self._days.reopen(device_id, [v.minute for v in verdicts if v.state not in SETTLED])
        return changed

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        now_us, lines = now(), self._records.lines(device_id, start, stop)
        known = [lines[minute] for minute in sorted(lines)]
        return [one.record(now_us) for one in known if one.was_written or one.check_times]

    # --- keeping --------------------------------------------------------------------------

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """See the contract. A day is not looked at again once all its digests are cached."""
        found = []
        for device_id in self._days.device_ids():
            for date, day in self._days.of_device(device_id).items():
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
                    self._days.record_sealed(device_id, start, day)
        return sorted(found, key=lambda pair: pair[1])

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """See the contract; leaves out minutes that somebody may be writing to."""
        return self._backlog.minutes(before, most)

    def count_unpacked(self, before: int) -> int:
        """See the contract; may be some seconds old."""
        return self._backlog.count(before)

    def pack_minutes(self, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        """See the contract, and cassandra_packing.py."""
        for device_id, minute in minutes:
            with self._lock:
                packed = self._packing.pack_minute(device_id, minute)
            yield packed

    def stored_bytes(self) -> StoredBytes | None:
        """See the contract; on the disks of all nodes together, including every replica."""
        found = self._db.disk_usage()
        if found is None:
            return None
        return StoredBytes(sum(found.values()) - found.get("ec_block", 0), found.get("ec_block", 0))

    def remove_before(self, day: int) -> list[str]:
        """See the contract. Rows also have a TTL (``storage.retention_days``)."""
        gone = set()
        for device_id in self._days.device_ids():
            for date, one in self._days.of_device(device_id).items():
                start = parse_ec(date, "000000")
                if start < day:
                    ceiling = self._days.ceiling(device_id, start)
                    self._rows.remove_day(device_id, start, ceiling)
                    self._days.remove(device_id, start, ceiling)
                    gone |= {date} if one.fingerprint else set()
        return sorted(gone)
