"""The storage contract in memory: the simplest engine, a reference for the others.

For tests. It stores nothing permanently, and caches no digests, so that none can be stale.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ec_server.storage import ranges
from ec_server.storage.contract import FinishedMinute, ReplacedRow, StorageHealth, Store
from ec_server.storage.digests import digest_of_minute, digest_of_second
from ec_server.storage.merge import RepairedSecond, in_rank, merged, single_day
from utilities.checksum_util import join_rows
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
from utilities.utc import MINUTE_S, day_of, ec_date, minute_of

Key = tuple[int, int]


class MemoryStore(Store):
    """All data in dictionaries; lost with the object."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, dict[Key, StoredRow]]] = {}
        self._replaced: dict[str, list[ReplacedRow]] = {}
        self._last_rank = 0
        self._marks: dict[tuple[int, str], tuple[int, int, int]] = {}
        self._devices: dict[str, DeviceRecord] = {}
        self._verdicts: dict[str, dict[int, Verdict]] = {}
        self._checks: dict[tuple[str, int], tuple[int, int]] = {}

    # --- writing --------------------------------------------------------------------------

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """See the contract."""
        day, now_us = single_day(batches), time.time_ns() // 1000
        opened = self._new_minutes(batches)
        changed = tuple(self._arrive(StoredRow(b, now_us, self._next_rank()), "message") for b in batches)
        if mark is not None and day is not None:
            self._marks[day, mark.writer] = (mark.sequence, sum(changed), len(changed) - sum(changed))
        return WriteResult(changed, opened)

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """See the contract."""
        single_day([row.batch for row in rows])
        opened = self._new_minutes([row.batch for row in rows])
        self._last_rank = max([self._last_rank, *(row.rank for row in rows)])
        return WriteResult(tuple(self._arrive(row, "message") for row in rows), opened)

    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """See the contract."""
        single_day(batches)
        opened = self._new_minutes(batches)
        seconds: dict[tuple[str, int], RepairedSecond] = {}
        return WriteResult(tuple(self._repair(batch, seconds) for batch in batches), opened)

    def _new_minutes(self, batches: Sequence[Batch]) -> frozenset[tuple[str, int]]:
        minutes = {(b.device_id, minute_of(b.second)) for b in batches}
        return frozenset(m for m in minutes if not self._seconds(m[0], m[1], m[1] + MINUTE_S))

    def _next_rank(self) -> int:
        self._last_rank = max(self._last_rank + 1, time.time_ns() // 1000)
        return self._last_rank

    def _arrive(self, row: StoredRow, reason: str) -> bool:
        batch, rows = row.batch, self._second(row.batch)
        stored = rows.get((batch.start_us, batch.end_us))
        if stored is None:
            self._put(row)
            return True
        if self._was_replaced(batch):
            return False
        after = merged(list(rows.values()), stored, row)
        if after is not None:
            self._replace(stored, StoredRow(after, row.inserted_us, self._next_rank()), reason)
        return after is not None

    def _repair(self, batch: Batch, seconds: dict[tuple[str, int], RepairedSecond]) -> bool:
        rows, at = self._second(batch), (batch.device_id, batch.second)
        if at not in seconds:
            seconds[at] = RepairedSecond(rows.values())
        after = seconds[at].after(batch)
        if after is None:
            return False
        row = StoredRow(after, time.time_ns() // 1000, self._next_rank())
        stored = rows.get((batch.start_us, batch.end_us))
        if stored is None:
            self._put(row)
        else:
            self._replace(stored, row, "repair")
        return True

    def _second(self, batch: Batch) -> dict[Key, StoredRow]:
        return self._rows.setdefault(batch.device_id, {}).setdefault(batch.second, {})

    def _put(self, row: StoredRow) -> None:
        batch = row.batch
        self._second(batch)[batch.start_us, batch.end_us] = row
        self._verdicts.get(batch.device_id, {}).pop(minute_of(batch.second), None)

    def _replace(self, stored: StoredRow, row: StoredRow, reason: str) -> None:
        kept = ReplacedRow(stored, time.time_ns() // 1000, reason)
        self._replaced.setdefault(stored.batch.device_id, []).append(kept)
        self._put(row)

    def _was_replaced(self, batch: Batch) -> bool:
        return any(kept.row.batch == batch for kept in self._replaced.get(batch.device_id, ()))

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """See the contract."""
        for one in kept:
            there = self._replaced.setdefault(one.row.batch.device_id, [])
            if one not in there:
                there.append(one)
                there.sort(key=lambda replaced: replaced.replaced_us)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """See the contract."""
        return self._marks.get((day, writer))

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """Nothing is cached here, so nothing is accepted."""
        return 0

    # --- reading --------------------------------------------------------------------------

    def _seconds(self, device_id: str, start: int, stop: int) -> list[int]:
        return sorted(s for s, rows in self._rows.get(device_id, {}).items() if rows and start <= s < stop)

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """See the contract."""
        for second in self._seconds(device_id, start, stop):
            yield from in_rank(self._rows[device_id][second].values())

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """See the contract."""
        return [r for r in self._replaced.get(device_id, []) if start <= r.row.batch.second < stop]

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        stored = self.rows(device_id, second, second + 1)
        return join_rows((row.batch.start_us, row.batch.end_us, row.batch.values) for row in stored)

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        found = []
        for second in self._seconds(device_id, minute, minute + MINUTE_S):
            digest = digest_of_second(self.second_text(device_id, second))
            if digest is not None:  # None if all rows of the second are damaged
                found.append((second, digest))
        return found

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        found = []
        for minute in sorted({minute_of(s) for s in self._seconds(device_id, start, stop)}):
            digest = digest_of_minute(self.second_digests(device_id, minute))
            if digest is not None:
                found.append((minute, digest))
        return found

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract."""
        counts: dict[int, tuple[int, int]] = {}
        for row in self.rows(device_id, start, stop):
            batch = row.batch
            rows, samples = counts.get(minute_of(batch.second), (0, 0))
            counts[minute_of(batch.second)] = (rows + 1, samples + batch.count)
        return [(minute, *counts[minute]) for minute in sorted(counts)]

    # --- proof ----------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract."""
        for device_id, seen_us in seen.items():
            known = self._devices.get(device_id, DeviceRecord(device_id, seen_us, seen_us))
            self._devices[device_id] = replace(known, last_seen_us=max(known.last_seen_us, seen_us))

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        return [record for record in map(self.device, sorted(self._devices)) if record]

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        known = self._devices.get(device_id)
        if known is None:
            return None
        verdicts = self._verdicts.get(device_id, {})
        stored = {minute_of(s) for s in self._rows.get(device_id, {})}
        through = None
        if known.covered_from is not None:
            settled = [m for m, v in verdicts.items() if v.state in SETTLED]
            covered = ranges.subtract([(known.covered_from, 2**62)], ranges.of_minutes(settled))
            through = covered[0][0]
        states = [(v.state, m in stored) for m, v in verdicts.items()]
        return replace(
            known,
            verified_through=through,
            unresolved_minutes=sum(s is MinuteState.UNRESOLVED for s, _ in states),
            unconfirmable_minutes=sum(s is MinuteState.UNCONFIRMABLE and has for s, has in states),
            conflicts=sum(v.conflicts for v in verdicts.values()),
            extra=sum(v.extra for v in verdicts.values()),
            empty_minutes=sum(s is MinuteState.EMPTY for s, _ in states),
        )

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        return min(map(minute_of, self._seconds(device_id, 0, 2**62)), default=None)

    def stored_days(self) -> list[tuple[str, int]]:
        """See the contract."""
        return sorted({(d, day_of(s)) for d, of in self._rows.items() for s, rows in of.items() if rows})

    def latest_second(self) -> int | None:
        """See the contract."""
        return max((s for of in self._rows.values() for s, rows in of.items() if rows), default=None)

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        return ranges.subtract([(start, stop)], self.ranges_in(device_id, start, stop, SETTLED))

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        verdicts = self._verdicts.get(device_id, {}).items()
        return ranges.of_minutes(m for m, v in verdicts if v.state in states and start <= m < stop)

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract."""
        changed = []
        for verdict in verdicts:
            minute = verdict.minute
            now = dict(self.minute_digests(device_id, minute, minute + MINUTE_S)).get(minute)
            _, times = self._checks.get((device_id, minute), (0, 0))
            self._checks[device_id, minute] = (compared_us, times + 1)
            if now == verdict.seen:
                self._verdicts.setdefault(device_id, {})[minute] = verdict
            else:
                changed.append(minute)
        return changed

    def note_coverage(self, device_id: str, start: int) -> None:
        """See the contract."""
        self._devices[device_id] = replace(self._devices[device_id], covered_from=start)

    def note_reopened(self, device_id: str, reopened: Sequence[tuple[int, int]]) -> None:
        """See the contract."""
        self._devices[device_id] = replace(self._devices[device_id], reopened=tuple(reopened))

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        digests = dict(self.minute_digests(device_id, start, stop))
        verdicts = self._verdicts.get(device_id, {})
        compared = {m for m in verdicts if start <= m < stop}
        records = []
        for minute in sorted(digests.keys() | compared):
            verdict = verdicts.get(minute)
            check_time_us, times = self._checks.get((device_id, minute), (None, 0))
            records.append(
                MinuteRecord(
                    minute,
                    digests.get(minute),
                    verdict.state if verdict else None,
                    verdict.extra if verdict else 0,
                    verdict.conflicts if verdict else 0,
                    check_time_us,
                    times,
                )
            )
        return records

    # --- keeping --------------------------------------------------------------------------

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """None: this engine caches no digests."""
        return []

    def remove_before(self, day: int) -> list[str]:
        """See the contract."""
        gone = set()
        for device_id, seconds in self._rows.items():
            self._replaced[device_id] = self.replaced_rows(device_id, day, 2**62)
            for second in [s for s in seconds if s < day]:
                gone.add(day_of(second))
                del seconds[second]
        for verdicts in self._verdicts.values():
            for minute in [m for m in verdicts if m < day]:
                del verdicts[minute]
        return [ec_date(d) for d in sorted(gone)]

    def health(self) -> StorageHealth:
        """Memory is always writable."""
        return StorageHealth(writable=True)

    def close(self) -> None:
        """Nothing to release."""
