"""A writer's lines and leases in ``ec_minute``: written before its rows, renewed after them, then released.

The writers' half of the rules in cassandra_minutes.py. A lease costs two small writes when it begins, one
for each group of rows and one when it ends, whatever the number of rows.

Not thread-safe: the store calls it while it holds its lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice

from ec_server.storage.cassandra_clock import Stamps, boot_time_s
from ec_server.storage.cassandra_minutes import LEASE_S, MinuteLines, minutes_of_rows
from ec_server.storage.cassandra_second import partition
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.model import MinuteState
from utilities.utc import HOUR_S, MINUTE_S, ec_date, ec_time, minute_of

Key = tuple[str, int]
"""``(device, minute)``."""

IDLE_S = 3.0
"""The lease of a minute that was not written to for this long is released."""
LOOKED_S = 1.0
"""For this long after looking, it is assumed that nobody has begun to repair a minute that is just over."""
_RELEASED_AT_ONCE = 256
"""Idle minutes released at once: ingest waits while this is done."""
_KEPT = 20_000

REMOVED = "/removed"
"""The writer name of the line that says up to which write timestamp a day was removed."""
_REMOVED_UNTIL = f"SELECT version FROM ec_day WHERE device_id = ? AND ec_date = ? AND writer = '{REMOVED}'"  # noqa: S608

LINES = "SELECT * FROM ec_minute WHERE device_id = ? AND ec_date = ? AND ec_time >= ? AND ec_time <= ?"
_LINE = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET version = ?, leased_until = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ?"
)
_DAY = (
    "UPDATE ec_day USING TTL ? AND TIMESTAMP ? SET version = ?"
    " WHERE device_id = ? AND ec_date = ? AND writer = ?"
)
_RELEASE = (
    "UPDATE ec_minute USING TIMESTAMP ? SET leased_until = null"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ?"
)
_RELEASE_IN_DOUBT = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET version = ?, leased_until = null"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ?"
)
_FORGET_DIGESTS = (
    "UPDATE ec_minute USING TIMESTAMP ? SET digest_version = null, minute_count = null, minute_md5 = null"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)
_FORGET_STATE = (
    "UPDATE ec_minute USING TIMESTAMP ? SET state = null, state_version = null"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)
DELETE_DIGESTS = (
    "DELETE FROM ec_checksum USING TIMESTAMP ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time >= ? AND ec_time <= ?"
)
_PACKED_UNTIL = (
    "SELECT DISTINCT device_id, ec_date, ec_minute, packed_until FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_FORGET_NOTE = (
    "UPDATE ec_notable USING TIMESTAMP ? SET state = null WHERE device_id = ? AND ec_date = ? AND ec_time = ?"
)


@dataclass(slots=True)
class _Held:
    """A minute in which this writer has a line."""

    version: int
    leased_until_s: float
    """In boot time; 0 if released."""
    opened: bool
    """Nobody had written to the minute before this writer."""
    used_s: float
    is_reported: bool = False
    is_whole: bool = True
    """Every row is this writer's, was sent once and acknowledged: digests may be published."""
    looked_s: float = -LOOKED_S
    """When the minute's lines were last read after its end, in boot time."""
    others: bool = False
    """Another writer had a line then."""
    is_in_doubt: bool = False
    """Rows may be stored that no new version has followed: the lease must not end with the old version."""
    packed_until: int = 0
    """The write timestamp up to which packed rows may have been deleted; negative if not known yet."""


class Claims:
    """The lines of one writer."""

    def __init__(self, database: Database, writer: str, stamps: Stamps, ttl_s: Callable[[int], int]) -> None:
        """``ttl_s`` gives the seconds that rows of a moment's day are kept; 0 means forever."""
        self._db = database
        self.writer = writer
        self._stamps = stamps
        self._ttl_s = ttl_s
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._looked: dict[Key, MinuteLines] = {}
        self._removed: dict[tuple[str, str], int] = {}

    def look(self, keys: Collection[Key]) -> None:
        """Read the minutes' lines where needed; call it before ``is_sole`` and ``hold``.

        They are needed if this writer holds no lease, and for past minutes, which others may repair.
        """
        now_s, wall_s = boot_time_s(), time.time()
        new = [key for key in keys if self._lease_left_s(key, now_s) <= 0]
        over = [
            key
            for key in keys
            if key[1] + MINUTE_S <= wall_s
            and self._lease_left_s(key, now_s) > 0
            and self._is_stale(key, now_s)
        ]
        self._looked = self.read([*new, *over]) if new or over else {}
        for key in over:
            self._held[key].looked_s = now_s
            self._held[key].others |= not self._looked[key].writers.keys() <= {self.writer}
            if self.writer not in self._looked[key].writers:  # the day was removed: start again
                del self._held[key]
        self._look_for_removals([*new, *(key for key in over if key not in self._held)])

    def _look_for_removals(self, keys: Collection[Key]) -> None:
        days = list({(device_id, ec_date(minute)) for device_id, minute in keys})
        for day, removed in zip(days, self._db.read_each(_REMOVED_UNTIL, days)):
            if removed:
                self._removed[day] = removed[0].version
                self._stamps.saw(removed[0].version)

    def deleted_until(self, device_id: str, second: int) -> int:
        """The write timestamp up to which rows of the second's minute may have been deleted; 0 if none.

        Only for minutes that are held and were passed to ``look`` before.
        """
        removed = self._removed.get((device_id, ec_date(second)), 0) if self._removed else 0
        held = self._held.get((device_id, minute_of(second)))
        return max(removed, held.packed_until) if held else removed

    def _is_stale(self, key: Key, now_s: float) -> bool:
        is_old = key[1] + HOUR_S <= time.time()
        return is_old or now_s - self._held[key].looked_s > LOOKED_S

    def is_gone(self, key: Key) -> bool:
        """Whether ``look`` found no line of this writer: rows that it wrote may be gone."""
        return key in self._looked and self.writer not in self._looked[key].writers

    def is_sole(self, key: Key) -> bool:
        """Whether nobody else has written to the minute, according to ``look``."""
        held, looked = self._held.get(key), self._looked.get(key)
        if held is None:
            return looked is not None and not looked.was_written
        has_others = held.others or (looked is not None and not looked.writers.keys() <= {self.writer})
        return held.opened and not has_others

    def hold(self, keys: Collection[Key]) -> None:
        """Make sure that each minute's line is stored and its lease lasts long enough for a write."""
        now_s = boot_time_s()
        new = [key for key in keys if self._lease_left_s(key, now_s) <= 0]
        short = [key for key in keys if 0 < self._lease_left_s(key, now_s) < LEASE_S / 2]
        if new:
            self._begin(new, now_s)
        if short:
            self._renew(short, now_s)
        unknown = [key for key in keys if self._held[key].packed_until < 0]
        if unknown:
            self._look_for_packing(unknown)

    def _look_for_packing(self, keys: Collection[Key]) -> None:
        """Read ``packed_until`` after the lease has begun (cassandra_packing.py, rule 2)."""
        wanted = [partition(*key) for key in keys]
        for key, rows in zip(keys, self._db.read_each(_PACKED_UNTIL, wanted)):
            packed_until = rows[0].packed_until if rows else None
            self._held[key].packed_until = packed_until or 0
            self._stamps.saw(packed_until or 0)

    def touch(self, keys: Collection[Key]) -> frozenset[Key]:
        """Write a new version, after the rows. Returns the minutes that this writer opened with them."""
        now_s = boot_time_s()
        self._renew(keys, now_s)
        opened = [key for key in keys if self._held[key].opened and not self._held[key].is_reported]
        for key in opened:
            self._held[key].is_reported = True
        return frozenset(key for key in opened if self._held[key].is_whole)

    def spoil(self, keys: Iterable[Key], *, is_in_doubt: bool) -> None:
        """Exclude these minutes from publishing.

        ``is_in_doubt``: some of their rows may be stored although they were not acknowledged.
        """
        for key in keys:
            if key in self._held:
                self._held[key].is_whole = False
                self._held[key].is_in_doubt |= is_in_doubt

    def wrote_alone(self, key: Key, lines: MinuteLines) -> bool:
        """Whether this writer wrote every row of the minute, from the first on, and all were acknowledged."""
        held = self._held.get(key)
        if held is None or not (held.opened and held.is_whole):
            return False
        return {name: line.version for name, line in lines.writers.items()} == {self.writer: held.version}

    def release_statement(self, key: Key) -> Statement:
        """The statement that ends the lease; the caller applies it in a mutation, then calls ``released``."""
        return Statement(_RELEASE, (self._stamps.next(), *_at(key), self.writer))

    def released(self, keys: Iterable[Key]) -> None:
        """Note that the leases of these minutes have ended."""
        for key in keys:
            if key in self._held:
                self._held[key].leased_until_s = 0.0
                self._held[key].is_in_doubt = False
        while len(self._held) > _KEPT and next(iter(self._held.values())).leased_until_s == 0.0:
            self._held.popitem(last=False)

    def release(self, keys: Iterable[Key] | None = None) -> None:
        """End the leases of these minutes; by default, of some that were not written to for a while."""
        ended = self._idle() if keys is None else [key for key in keys if self._is_leased(key)]
        if not ended:
            return
        lines = self.read(ended)
        self._db.write(
            [self._end_of_lease(key), *self._void(key, lines[key], even_current=False)] for key in ended
        )
        self.released(ended)

    def _idle(self) -> list[Key]:
        limit_s = boot_time_s() - IDLE_S
        idle = (key for key, held in self._held.items() if held.leased_until_s and held.used_s < limit_s)
        return list(islice(idle, _RELEASED_AT_ONCE))

    def _is_leased(self, key: Key) -> bool:
        held = self._held.get(key)
        return held is not None and held.leased_until_s > 0

    def _end_of_lease(self, key: Key) -> Statement:
        """If rows are in doubt, also writes a new version, which voids conclusions drawn without them."""
        held = self._held[key]
        if not held.is_in_doubt:
            return self.release_statement(key)
        held.version = self._stamps.next()
        values = (self._ttl_s(key[1]), held.version, held.version, *_at(key), self.writer)
        return Statement(_RELEASE_IN_DOUBT, values)

    def release_all(self) -> None:
        """End every lease, before closing."""
        self.release(list(self._held))

    def read(self, keys: Collection[Key]) -> dict[Key, MinuteLines]:
        """The record of each minute."""
        wanted = list(keys)
        found = self._db.read_each(LINES, [(*_at(key), ec_time(key[1])) for key in wanted])
        lines = {
            key: minutes_of_rows(ec_date(key[1]), rows).get(key[1], MinuteLines(key[1]))
            for key, rows in zip(wanted, found)
        }
        for one in lines.values():
            self._stamps.saw(max((line.version for line in one.writers.values()), default=0))
        return lines

    def _lease_left_s(self, key: Key, now_s: float) -> float:
        held = self._held.get(key)
        return held.leased_until_s - now_s if held else 0.0

    def _begin(self, keys: Collection[Key], now_s: float) -> None:
        """Write the minutes' lines, then those of their days; only then may rows follow (rule 6)."""
        unknown = [key for key in keys if key not in self._looked]
        found = {**self._looked, **(self.read(unknown) if unknown else {})}
        for key in keys:
            held = self._held.pop(key, None)
            opened = held.opened if held else not found[key].was_written
            whole = held.is_whole if held else True
            self._held[key] = _Held(
                0,
                0.0,
                opened,
                now_s,
                is_reported=held is not None and held.is_reported,
                is_whole=whole,
                others=held is not None and held.others,
                is_in_doubt=held is not None and held.is_in_doubt,
                packed_until=-1 if key[1] + MINUTE_S <= time.time() else 0,
            )
        self._renew(keys, now_s, found)
        days = {(device_id, ec_date(minute)): self._ttl_s(minute) for device_id, minute in keys}
        self._db.write(
            [Statement(_DAY, (ttl_s, at := self._stamps.next(), at, *day, self.writer))]
            for day, ttl_s in days.items()
        )

    def _renew(
        self, keys: Collection[Key], now_s: float, found: dict[Key, MinuteLines] | None = None
    ) -> None:
        mutations: list[list[Statement]] = []
        versions: dict[Key, int] = {}
        until_us = time.time_ns() // 1000 + LEASE_S * 1_000_000
        for key in keys:
            at = versions[key] = self._stamps.next()
            values = (self._ttl_s(key[1]), at, at, until_us, *_at(key), self.writer)
            mutation = [Statement(_LINE, values)]
            if found and found[key].minute == key[1]:
                mutation += self._void(key, found[key], even_current=True)
                mutations += [[note] for note in self._void_note(key, found[key])]
            mutations.append(mutation)
        try:
            self._db.write(mutations)
        except Exception:
            for key in keys:  # some lines may be stored, so their versions are unknown
                self._held[key].version = 0
            raise
        for key in keys:
            held = self._held[key]
            held.version, held.used_s = versions[key], now_s
            held.leased_until_s = now_s + LEASE_S
            self._held.move_to_end(key)

    def _void(self, key: Key, lines: MinuteLines, *, even_current: bool) -> list[Statement]:
        """Remove recorded conclusions that no longer hold, or soon will not."""
        found = []
        at = _at(key)
        if lines.digest_version is not None and (even_current or lines.digest_version != lines.fingerprint):
            stamp = self._stamps.next()
            found.append(Statement(DELETE_DIGESTS, (stamp, *at, ec_time(key[1] + 59))))
            found.append(Statement(_FORGET_DIGESTS, (stamp, *at)))
        if lines.state is not None and (even_current or lines.state_version != lines.fingerprint):
            found.append(Statement(_FORGET_STATE, (self._stamps.next(), *at)))
        return found

    def _void_note(self, key: Key, lines: MinuteLines) -> list[Statement]:
        is_noted = lines.state not in (None, MinuteState.PROVEN)
        return [Statement(_FORGET_NOTE, (self._stamps.next(), *_at(key)))] if is_noted else []


def _at(key: Key) -> tuple[str, str, str]:
    device_id, minute = key
    return device_id, ec_date(minute), ec_time(minute)
