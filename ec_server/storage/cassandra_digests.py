"""Digests of seconds and minutes: cached ones if they still hold, else computed from the rows and cached.

They are stored with the fingerprint that was read before the rows, so that a write in between makes them
void (cassandra_minutes.py, rule 2). Damage that is found on the way is remembered by its second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ec_server.storage.cassandra_clock import now
from ec_server.storage.cassandra_minutes import MinuteLines
from ec_server.storage.cassandra_record import Records
from ec_server.storage.cassandra_rows import Rows
from ec_server.storage.cassandra_second import SecondRows
from ec_server.storage.digests import digest_of_minute, digest_of_second
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.model import Digest
from utilities.utc import MINUTE_S

_KEPT_AT_ONCE = 32
_DAMAGE_LISTED = 100

_Digests = list[tuple[int, Digest]]


class Digests:
    """Reads and computes digests; caches none if read-only."""

    def __init__(
        self,
        database: Database,
        records: Records,
        rows: Rows,
        counts_as_written: Callable[[str, int], MinuteLines],
        *,
        read_only: bool,
    ) -> None:
        """``counts_as_written`` gives a minute a new version, if another program has changed its rows."""
        self._db = database
        self._records = records
        self._rows = rows
        self._counts_as_written = counts_as_written
        self._read_only = read_only
        self._damage: dict[tuple[str, int], str] = {}

    @property
    def damage(self) -> tuple[str, ...]:
        """What was found damaged, and not intact since, one line each."""
        return tuple(self._damage.values())

    def now_of(self, device_id: str, lines: MinuteLines) -> Digest | None:
        """The minute digest that holds at the fingerprint of ``lines``."""
        known, digest = lines.minute_digest(now())
        if known or not lines.was_written:
            return digest
        digests, kept = self._compute(device_id, lines, {})
        self._db.write(kept)
        return digest_of_minute(digests)

    def of_seconds(self, device_id: str, minute: int, *, from_rows: bool = False) -> list[tuple[int, Digest]]:
        """See the contract."""
        lines = self._records.of_minute(device_id, minute)
        found, kept = self._digests_of(device_id, lines, from_rows=from_rows)
        self._db.write(kept)
        return found

    def of_minutes(
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
                seconds, mutations = self._digests_of(device_id, of_minute, from_rows=from_rows)
                digest = digest_of_minute(seconds)
                kept += mutations
            if digest is not None:
                found.append((minute, digest))
            if len(kept) >= _KEPT_AT_ONCE:
                self._db.write(kept)
                kept.clear()
        self._db.write(kept)
        return found

    def _digests_of(
        self, device_id: str, lines: MinuteLines, *, from_rows: bool
    ) -> tuple[_Digests, list[list[Statement]]]:
        """The digests of a minute's seconds, and the mutations that cache those that were computed."""
        if from_rows:
            return self._compute(device_id, lines, {})
        if not lines.was_written:
            return [], []
        known, whole = lines.minute_digest(now())
        has_digests = lines.has_digests(now())
        cached = self._records.cached_seconds(device_id, lines.minute) if has_digests else {}
        of_cached = digest_of_minute(sorted(cached.items()))
        if known and of_cached == whole:
            return sorted(cached.items()), []
        is_true = has_digests and not known and lines.confirms(of_cached)
        return self._compute(device_id, lines, cached if is_true else {})

    def _compute(
        self, device_id: str, lines: MinuteLines, cached: Mapping[int, Digest]
    ) -> tuple[_Digests, list[list[Statement]]]:
        """Digests from the rows, and the mutations that cache them at the fingerprint read before the rows.

        If another program has added or deleted rows, this counts as a write of this store: a new version is
        written first, and the rows are read again after it.
        """
        lines = self._records.with_proof(device_id, {lines.minute: lines})[lines.minute]
        found = self._read_digests(device_id, lines.minute, cached)
        if self._read_only or not (found or lines.was_written):
            return found, []
        known, before = lines.minute_digest(now())
        if (known and before != digest_of_minute(found)) or not lines.was_written:
            lines = self._counts_as_written(device_id, lines.minute)
            lines = self._records.with_proof(device_id, {lines.minute: lines})[lines.minute]
            found = self._read_digests(device_id, lines.minute, {})
        return found, self._records.keep(lines, device_id, found, complete=True)

    def _read_digests(self, device_id: str, minute: int, cached: Mapping[int, Digest]) -> _Digests:
        """The digests of the minute's non-empty seconds, from the cache or else from the rows."""
        digests = dict(cached)
        for found in self._uncached_seconds(device_id, minute, cached):
            self._note_damage(found)
            if digest := digest_of_second(found.text()):
                digests[found.second] = digest
        return sorted(digests.items())

    def _note_damage(self, found: SecondRows) -> None:
        key = (found.device_id, found.second)
        self._damage.pop(key, None)
        damage = found.damage()
        if damage is not None and len(self._damage) < _DAMAGE_LISTED:
            table, what = damage
            self._damage[key] = f"{self._db.target.keyspace}.{table}, {found.device_id}: {what}"

    def _uncached_seconds(
        self, device_id: str, minute: int, cached: Mapping[int, Digest]
    ) -> Iterator[SecondRows]:
        if not cached:
            yield from self._rows.seconds(device_id, minute, minute + MINUTE_S - 1)
            return
        for second in [s for s in range(minute, minute + MINUTE_S) if s not in cached]:
            yield from self._rows.seconds(device_id, second, second)
