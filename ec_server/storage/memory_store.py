"""The storage contract in memory: the plainest engine, against which the others are read.

For tests and for reasoning: it keeps nothing and caches no digest, so that it cannot be stale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

from ec_server.storage import ranges
from ec_server.storage.contract import FinishedMinute, StorageHealth, Store
from ec_server.storage.merge import merged_batch, single_day
from utilities.checksum_util import join_rows, minute_digest, second_digest
from utilities.model import (
    Batch,
    CommitMark,
    DeviceRecord,
    Digest,
    MinuteRecord,
    MinuteState,
    Verdict,
    WriteResult,
)
from utilities.utc import MINUTE_S, day_of, ec_date, ec_time, minute_of

_FINAL = (MinuteState.PROVEN, MinuteState.UNCONFIRMABLE)


class MemoryStore(Store):
    """Everything in dictionaries; gone with the object."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, dict[tuple[int, int], tuple[Batch, int]]]] = {}
        self._marks: dict[tuple[int, str], tuple[int, int, int]] = {}
        self._devices: dict[str, DeviceRecord] = {}
        self._verified: dict[str, tuple[int, int]] = {}
        self._verdicts: dict[str, dict[int, Verdict]] = {}
        self._checks: dict[tuple[str, int], tuple[int, int]] = {}

    # --- ingest ---------------------------------------------------------------------------

    def write(
        self,
        batches: Sequence[Batch],
        mark: CommitMark | None = None,
        inserted_us: int | Sequence[int] | None = None,
    ) -> WriteResult:
        """See the contract."""
        day = single_day(batches)
        at_us = inserted_us if inserted_us is not None else time.time_ns() // 1000
        moments = repeat(at_us) if isinstance(at_us, int) else at_us
        minutes = {(b.device_id, minute_of(b.second)) for b in batches}
        fresh = frozenset(m for m in minutes if not self._seconds(m[0], m[1], m[1] + MINUTE_S))
        changed = tuple(self._insert(batch, moment_us) for batch, moment_us in zip(batches, moments))
        if mark is not None and day is not None:
            self._marks[day, mark.writer] = (mark.sequence, sum(changed), len(changed) - sum(changed))
        return WriteResult(changed, fresh)

    def _insert(self, batch: Batch, now_us: int) -> bool:
        rows = self._rows.setdefault(batch.device_id, {}).setdefault(batch.second, {})
        key = (batch.start_us, batch.end_us)
        if key in rows:
            merged = merged_batch(rows[key][0], batch)
            if merged is None:
                return False
            batch = merged
            del rows[key]  # inserted again, so it ranks last
        rows[key] = (batch, now_us)
        self._verdicts.get(batch.device_id, {}).pop(minute_of(batch.second), None)
        return True

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """See the contract."""
        return self._marks.get((day, writer))

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """Nothing is cached here, so nothing is taken."""
        return 0

    # --- reading --------------------------------------------------------------------------

    def _seconds(self, device_id: str, start: int, stop: int) -> list[int]:
        return sorted(s for s in self._rows.get(device_id, {}) if start <= s < stop)

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[tuple[Batch, int]]:
        """See the contract."""
        for second in self._seconds(device_id, start, stop):
            yield from list(self._rows[device_id][second].values())

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        stored = self.rows(device_id, second, second + 1)
        return join_rows((batch.start_us, batch.end_us, batch.values) for batch, _ in stored)

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        found = []
        for second in self._seconds(device_id, minute, minute + MINUTE_S):
            digest = second_digest(self.second_text(device_id, second))
            assert digest is not None
            found.append((second, Digest(*digest)))
        return found

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        found = []
        for minute in sorted({minute_of(s) for s in self._seconds(device_id, start, stop)}):
            lines = self.second_digests(device_id, minute)
            digest = minute_digest((ec_time(s), d.count, d.md5) for s, d in lines)
            assert digest is not None
            found.append((minute, Digest(*digest)))
        return found

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract."""
        counts: dict[int, tuple[int, int]] = {}
        for batch, _ in self.rows(device_id, start, stop):
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
        if device_id in self._verified:
            start, through = self._verified[device_id]
            through = min([through, *(a for a, _ in self.unproven_ranges(device_id, start, through))])
        states = [(v.state, m in stored) for m, v in verdicts.items()]
        return replace(
            known,
            verified_through=through,
            unresolved_minutes=sum(s is MinuteState.UNRESOLVED for s, _ in states),
            unconfirmable_minutes=sum(s is MinuteState.UNCONFIRMABLE and has for s, has in states),
            conflicts=sum(v.conflicts for v in verdicts.values()),
            extra=sum(v.extra for v in verdicts.values()),
        )

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        return min(map(minute_of, self._rows.get(device_id, {})), default=None)

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        verdicts = self._verdicts.get(device_id, {}).items()
        final = [minute for minute, verdict in verdicts if verdict.state in _FINAL]
        return ranges.subtract([(start, stop)], ranges.of_minutes(final))

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

    def record_progress(self, device_id: str, start: int, verified_through: int) -> None:
        """See the contract."""
        self._verified[device_id] = (start, verified_through)

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

    def unsealed_minutes(self, before: int) -> list[tuple[str, int]]:
        """Nothing is ever cached here, and nothing waits to be."""
        return []

    def remove_before(self, day: int) -> list[str]:
        """See the contract."""
        gone = set()
        for seconds in self._rows.values():
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
        """Nothing to let go of."""
