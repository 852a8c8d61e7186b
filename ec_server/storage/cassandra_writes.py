"""Writes rows to Cassandra: messages, repairs and replays, and keeps the rows that these replace.

Rules:

1. A row is written without reading first if certainly no row of its key is stored: nobody else has written
   to its minute, and this writer would remember the row (cassandra_known.py). That is the case for live
   data. Otherwise the checksums of the second's rows are read first, to find duplicates.
2. For a batch whose key is stored with other samples, and for every repair, the second is read and changed
   in one mutation: the new rows, and in ``ec_replaced`` those that they replace.
3. New ranks are above every version and rank that was read (cassandra_clock.py), so that merged rows and
   repairs win over the rows they were made from, whatever the clocks say. A replayed row keeps its rank,
   which is its write timestamp, so that it loses against rows that have replaced it since. (In a day that
   was removed, its timestamp is above that of the removal, as Cassandra would hide anything older.)
4. Lines, rows and new versions are written in that order (cassandra_minutes.py). A batch that changes
   nothing leaves lines, versions and proof unchanged.
5. If two servers receive different samples of one key at the same time, the row of the higher rank stays,
   and the next round repairs what is missing. The transactions that could prevent this are too slow for
   ingest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ec_server.storage.cassandra_claims import Claims, Key
from ec_server.storage.cassandra_clock import Stamps
from ec_server.storage.cassandra_known import BEGINNING, KnownRows, place_of
from ec_server.storage.cassandra_rows import Change, Rows, pieces
from ec_server.storage.cassandra_second import SecondRows, is_whole
from ec_server.storage.contract import ReplacedRow
from ec_server.storage.merge import RepairedSecond, merged
from ec_server.storage.recent_rows import RowKey
from utilities.model import Batch, StoredRow, WriteResult
from utilities.utc import minute_of

_REMEMBERED_ROWS = 100_000


class Writes:
    """The writes of one writer. The store calls it while it holds its lock."""

    def __init__(self, claims: Claims, rows: Rows, stamps: Stamps) -> None:
        self._claims = claims
        self._rows = rows
        self._stamps = stamps
        self._known = KnownRows(_REMEMBERED_ROWS)

    def ingest(self, batches: Sequence[Batch]) -> WriteResult:
        """Write batches in the order of their arrival; assigns their ranks."""
        return self._arrive(batches, None)

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """Write rows that keep their insert times and ranks."""
        self._stamps.saw(max(row.rank for row in rows))
        return self._arrive([row.batch for row in rows], rows)

    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """Write the device's own values of some seconds; afterwards these values win."""
        stored = self._rows.of_seconds(_seconds(batches))
        self._look({_minute(batch) for batch in batches})
        rows = {at: second.stored() for at, second in stored.items()}
        self._saw(rows.values())
        rank = self._stamps.next(len(batches) + 1)
        repaired = {at: _RepairedSecond(second, rows[at], rank) for at, second in stored.items()}
        changed = tuple(
            repaired[batch.device_id, batch.second].add(batch, rank + i) for i, batch in enumerate(batches, 1)
        )
        opened = self._change([one.change for one in repaired.values()])
        return WriteResult(changed, opened)

    # --- messages and replays -------------------------------------------------------------

    def _arrive(self, batches: Sequence[Batch], replayed: Sequence[StoredRow] | None) -> WriteResult:
        new: dict[Key, list[int]] = {}
        met: list[int] = []
        seen: set[Key] = set()
        fresh: dict[RowKey, str] = {}
        changed: list[bool] = []
        for i, batch in enumerate(batches):
            key, checksum = batch.key, batch.checksum
            earlier = fresh.setdefault(key, checksum)
            is_same = self._known.is_same(key, checksum) if earlier is checksum else earlier == checksum
            changed.append(not is_same)
            if is_same is None:
                new.setdefault((batch.device_id, minute_of(batch.second)), []).append(i)
            else:
                seen.add(_minute(batch))
                if not is_same:
                    met.append(i)
        if self._look(new.keys() | seen):
            return self._arrive(batches, replayed)
        met += self._look_up(batches, new, changed)
        if met:  # new rows must rank above stored ones
            _, highest = self._rows.checksums(_seconds([batches[i] for i in met]))
            self._stamps.saw(highest)
        rows = self._rows_of(batches, replayed)
        groups = {key: [rows[i] for i in of_minute] for key, of_minute in new.items() if of_minute}
        opened = self._store(groups)
        if met:
            opened |= self._meet({i: rows[i] for i in sorted(met)}, changed, keep_ranks=replayed is None)
        return WriteResult(tuple(changed), opened)

    def _look(self, minutes: set[Key]) -> bool:
        """Look at minutes before they are written to; True if remembered rows turned out to be gone.

        That is the case if this writer's line is gone: the day was removed, with its rows.
        """
        self._claims.look(minutes)
        gone = [minute for minute in minutes if self._claims.is_gone(minute)]
        return self._known.forget(gone)

    def look(self, minute: Key) -> None:
        """Look at a minute before anything other than rows is written to its lines."""
        self._look({minute})

    def _look_up(self, batches: Sequence[Batch], new: dict[Key, list[int]], changed: list[bool]) -> list[int]:
        """Remove from ``new`` what is stored (rule 1); returns those whose key has other samples."""
        unsure = [
            (key, i) for key, of_minute in new.items() for i in self._uncertain(key, of_minute, batches)
        ]
        if not unsure:
            return []
        stored, highest = self._rows.checksums(_seconds([batches[i] for _, i in unsure]))
        self._stamps.saw(highest)
        met = []
        for key, i in unsure:
            checksum = stored.get(batches[i].key)
            if checksum is not None:
                new[key].remove(i)
                changed[i] = checksum != batches[i].checksum
                if changed[i]:
                    met.append(i)
        return met

    def _uncertain(self, key: Key, of_minute: list[int], batches: Sequence[Batch]) -> list[int]:
        """A copy of those that may be stored already."""
        if not self._claims.is_sole(key):
            return list(of_minute)
        floor = self._known.floor(key)
        return [i for i in of_minute if place_of(batches[i]) <= floor] if floor > BEGINNING else []

    def _rows_of(self, batches: Sequence[Batch], replayed: Sequence[StoredRow] | None) -> Sequence[StoredRow]:
        if replayed is not None:
            return replayed
        now_us, rank = time.time_ns() // 1000, self._stamps.next(len(batches))
        return [StoredRow(batch, now_us + i, rank + i) for i, batch in enumerate(batches)]

    def _store(self, groups: dict[Key, list[StoredRow]]) -> frozenset[Key]:
        if not groups:
            return frozenset()
        self._claims.hold(groups)
        self._rows.write(pieces(groups))
        opened = self._claims.touch(groups)
        for key, rows in groups.items():
            self._known.add(key, [row.batch for row in rows])
        return opened

    def _meet(
        self, arrived: dict[int, StoredRow], changed: list[bool], *, keep_ranks: bool
    ) -> frozenset[Key]:
        """Rule 2, for rows whose key is stored, probably with other samples.

        ``keep_ranks``: the rows are messages, which rank above everything stored before the call, in their
        order; otherwise they are replayed, and a row that this changes ranks above everything.
        """
        batches = [row.batch for row in arrived.values()]
        found = self._rows.of_seconds(_seconds(batches))
        stored = {at: second.stored() for at, second in found.items()}
        self._saw(stored.values())
        met = {
            at: _MetSecond(at, rows, self._rows.replaced(*at, at[1] + 1), self._stamps, keep_ranks=keep_ranks)
            for at, rows in stored.items()
        }
        for i, row in arrived.items():
            changed[i] = met[row.batch.device_id, row.batch.second].add(row)
        return self._change([one.change for one in met.values()])

    def _change(self, changes: Iterable[Change]) -> frozenset[Key]:
        """Change seconds, each in one mutation; returns the minutes that this opened."""
        wanted = [change for change in changes if change.changes_anything]
        keys = {(device_id, minute_of(second)) for device_id, second in (change.at for change in wanted)}
        if not keys:
            return frozenset()
        self._claims.hold(keys)
        self._rows.change(wanted)
        opened = self._claims.touch(keys)
        for change in wanted:
            for row in change.rows:
                self._known.add(_minute(row.batch), [row.batch])
        return opened

    def _saw(self, stored: Iterable[Sequence[StoredRow]]) -> None:
        self._stamps.saw(max((row.rank for rows in stored for row in rows), default=0))


class _MetSecond:
    """A second's rows while batches arrive whose keys some of them have."""

    def __init__(
        self,
        at: tuple[str, int],
        rows: Sequence[StoredRow],
        replaced: Sequence[ReplacedRow],
        stamps: Stamps,
        *,
        keep_ranks: bool,
    ) -> None:
        """``keep_ranks``: a merged row takes the arrived row's rank, if that is above the stored one's."""
        self._keep_ranks = keep_ranks
        self._rows = {row.batch.key: row for row in rows}
        self._replaced = {(one.row.batch.key, one.row.batch.checksum) for one in replaced}
        self._stamps = stamps
        self.change = Change(at, "message")

    def add(self, arrived: StoredRow) -> bool:
        """Whether the batch changed anything."""
        batch = arrived.batch
        before = self._rows.get(batch.key)
        if before is None:  # removed meanwhile
            return self._put(arrived)
        if batch.checksum == before.batch.checksum or (batch.key, batch.checksum) in self._replaced:
            return False
        keeps_rank = self._keep_ranks and before.rank < arrived.rank
        earlier = [row for row in self._rows.values() if not keeps_rank or row.rank < arrived.rank]
        after = merged(earlier, before, arrived) if is_whole(before.batch) else batch
        if after is None:
            return False
        self._replaced.add((batch.key, before.batch.checksum))
        self.change.replaced.append(before)
        rank = arrived.rank if keeps_rank else self._stamps.next()
        return self._put(StoredRow(after, arrived.inserted_us, rank))

    def _put(self, row: StoredRow) -> bool:
        self._rows[row.batch.key] = row
        self.change.put(row)
        return True


class _RepairedSecond:
    """A second's rows during a repair."""

    def __init__(self, second: SecondRows, rows: Sequence[StoredRow], first_rank: int) -> None:
        """Damaged rows are removed with the first repair; ``first_rank`` is above every stored rank."""
        whole = [row for row in rows if is_whole(row.batch)]
        self._rows = {row.batch.key: row for row in whole}
        self._second = RepairedSecond(whole)
        damaged = [row for row in rows if not is_whole(row.batch)]
        self.change = Change(
            (second.device_id, second.second),
            "repair",
            first_rank,
            replaced=list(damaged),
            removed=damaged,
            damaged_blocks=second.damaged_blocks(),
        )

    def add(self, batch: Batch, rank: int) -> bool:
        """Whether the batch changed anything."""
        after = self._second.after(batch)
        if after is None:
            return bool(self.change.removed or self.change.damaged_blocks)
        before = self._rows.get(after.key)
        if before is not None:
            self.change.replaced.append(before)
        self._rows[after.key] = row = StoredRow(after, time.time_ns() // 1000, rank)
        self.change.put(row)
        return True


def _minute(batch: Batch) -> Key:
    return batch.device_id, minute_of(batch.second)


def _seconds(batches: Iterable[Batch]) -> list[tuple[str, int]]:
    return sorted({(batch.device_id, batch.second) for batch in batches})
