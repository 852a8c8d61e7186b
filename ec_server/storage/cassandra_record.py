"""Reads and writes the records of minutes: writers' lines, cached digests, verdicts.

For the rules see cassandra_minutes.py. The record of a minute is in one partition per table (``ec_minute``
and ``ec_checksum`` have the same partition key), so that related changes are one mutation. What confirms it
is stored with the rows, in another partition, by a separate mutation; their order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from ec_server.storage.cassandra_claims import DELETE_DIGESTS, LINES
from ec_server.storage.cassandra_clock import Stamps, now
from ec_server.storage.cassandra_days import by_day
from ec_server.storage.cassandra_minutes import (
    NEEDS_ROWS,
    SETTLED,
    MinuteLines,
    digest_proof,
    minutes_of_rows,
    state_proof,
)
from ec_server.storage.digests import digest_of_minute
from ec_server.storage.timeuuid import timeuuid
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.model import Digest, MinuteState, Verdict
from utilities.utc import ec_date, ec_time, is_ec_time, parse_ec

_DIGESTS = (
    "SELECT ec_time, ec_type, values_count, values_checksum FROM ec_checksum"
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
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET version = ?"
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
    " VALUES (?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?"
)
_UNNOTE = "DELETE FROM ec_notable USING TIMESTAMP ? WHERE device_id = ? AND ec_date = ? AND ec_time = ?"
_PROOFS = (
    "SELECT DISTINCT device_id, ec_date, ec_minute, digest_proof, state_proof, last_packing"
    " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute IN ?"
)
_BLOCK_PACKINGS = (
    "SELECT DISTINCT device_id, ec_date, ec_minute, last_packing, earlier_packing FROM ec_block"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute IN ?"
)
_PROVE_DIGEST = (
    "UPDATE ec_consumption USING TTL ? AND TIMESTAMP ? SET digest_proof = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_PROVE_DIGEST_OF_OTHER_BLOCKS = (
    "UPDATE ec_consumption USING TTL ? AND TIMESTAMP ? SET digest_proof = ?, last_packing = ?,"
    " state_proof = null"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_PROVE_STATE = (
    "UPDATE ec_consumption USING TTL ? AND TIMESTAMP ? SET state_proof = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_PROOFS_AT_ONCE = 60
"""Partitions per request."""
_PACKED = (
    "UPDATE ec_minute USING TTL ? AND TIMESTAMP ? SET packed_version = ?"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ''"
)


class Records:
    """The records of minutes; settles no lines if read-only."""

    def __init__(
        self, database: Database, stamps: Stamps, ttl_s: Callable[[int], int], *, read_only: bool
    ) -> None:
        """``ttl_s`` gives the seconds that the record of a moment's day is kept; 0 means forever."""
        self._db = database
        self._stamps = stamps
        self._ttl_s = ttl_s
        self._read_only = read_only

    def lines(self, device_id: str, start: int, stop: int) -> dict[int, MinuteLines]:
        """The records of the minutes in ``[start, stop)``, with abandoned lines settled."""
        found = self.on_record(device_id, start, stop)
        now_us = now()
        abandoned = [(minute, *one) for minute, lines in found.items() for one in lines.abandoned(now_us)]
        if abandoned and not self._read_only:
            self._db.write([self._settlement(device_id, *one)] for one in abandoned)
            found = self.on_record(device_id, start, stop)
        return self._with_proofs(device_id, found)

    def _settlement(self, device_id: str, minute: int, writer: str, version: int) -> Statement:
        values = (self._ttl_s(minute), self._stamps.next(), version, *at(device_id, minute), writer + SETTLED)
        return Statement(_SETTLE, values)

    def _with_proofs(self, device_id: str, found: dict[int, MinuteLines]) -> dict[int, MinuteLines]:
        """The records, completed with what is stored with the rows where that is needed."""
        wanted = [minute for minute, lines in sorted(found.items()) if lines.needs_proof]
        return found | self.with_proof(device_id, {minute: found[minute] for minute in wanted})

    def with_proof(self, device_id: str, lines: Mapping[int, MinuteLines]) -> dict[int, MinuteLines]:
        """The records of some minutes, completed with what is stored with their rows and blocks."""
        found = dict(lines)
        for minute, row in self._of_partitions(_PROOFS, device_id, list(found)):
            found[minute] = replace(
                found[minute],
                digest_proof=row.digest_proof,
                state_proof=row.state_proof,
                last_packing=row.last_packing,
            )
        packed = [minute for minute, one in found.items() if one.last_packing is not None]
        for minute, row in self._of_partitions(_BLOCK_PACKINGS, device_id, packed):
            found[minute] = replace(found[minute], block_packings=(row.last_packing, row.earlier_packing))
        return found

    def _of_partitions(self, cql: str, device_id: str, minutes: list[int]) -> list[tuple[int, Any]]:
        """The static columns of the partitions of some minutes."""
        pieces: list[tuple[str, str, list[str]]] = []
        for date, of_day in groupby(minutes, key=ec_date):
            texts = [ec_time(minute)[:4] for minute in of_day]
            steps = range(0, len(texts), _PROOFS_AT_ONCE)
            pieces += [(device_id, date, texts[i : i + _PROOFS_AT_ONCE]) for i in steps]
        found = self._db.read_each(cql, pieces)
        return [(parse_ec(row.ec_date, row.ec_minute + "00"), row) for rows in found for row in rows]

    def of_minute(self, device_id: str, minute: int) -> MinuteLines:
        """The record of one minute."""
        return self.lines(device_id, minute, minute + 60).get(minute, MinuteLines(minute))

    def on_record(self, device_id: str, start: int, stop: int) -> dict[int, MinuteLines]:
        """The records of the minutes in ``[start, stop)`` as stored, neither settled nor confirmed."""
        found: dict[int, MinuteLines] = {}
        for first, last in by_day(start, stop):
            span = (ec_time(first), ec_time(last - 1))
            rows = self._db.read(LINES, device_id, ec_date(first), *span)
            found |= minutes_of_rows(ec_date(first), rows)
        return found

    def cached_seconds(self, device_id: str, minute: int) -> dict[int, Digest]:
        """The second digests in ``ec_checksum``, whether they still hold or not."""
        rows = self._digest_rows(device_id, minute)
        return {s: Digest(row.values_count, row.values_checksum) for s, row in rows if row.ec_type == "S"}

    def _digest_rows(self, device_id: str, minute: int) -> list[tuple[int, Any]]:
        date = ec_date(minute)
        found = self._db.read(_DIGESTS, device_id, date, ec_time(minute), ec_time(minute + 59))
        readable = [row for row in found if row.values_checksum is not None and is_ec_time(row.ec_time)]
        return [(parse_ec(date, row.ec_time), row) for row in readable]

    def keep(
        self,
        lines: MinuteLines,
        device_id: str,
        seconds: Collection[tuple[int, Digest]],
        *,
        complete: bool,
    ) -> list[list[Statement]]:
        """The mutations that cache digests which hold at ``lines.fingerprint``.

        The first is for the record's partition, the second for the rows'. If blocks have disappeared, the
        second names the packing of those that existed when the rows were read, and removes the verdict.

        ``complete``: these are all non-empty seconds of the minute, so that its own digest is known, too.
        """
        minute, ttl_s, stamp = lines.minute, self._ttl_s(lines.minute), self._stamps.next(2)
        where, time_text = (device_id, ec_date(minute)), ec_time(minute)
        of_these = digest_of_minute(seconds)
        whole = of_these if complete else None
        check = (timeuuid(lines.check_time_us) if lines.check_time_us else None, lines.check_times)
        kept: list[tuple[Any, ...]] = [(ec_time(s), "S", d.count, d.md5, *check) for s, d in seconds]
        if whole is not None:
            kept.append((time_text, "P", whole.count, whole.md5, *check))
        statements = [Statement(_CACHE, (*where, *row, stamp + 1, ttl_s)) for row in kept]
        if lines.digest_version is not None:
            values = (stamp, *where, time_text, ec_time(minute + 59))
            statements.insert(0, Statement(DELETE_DIGESTS, values))
        known = (whole.count, whole.md5) if whole else (0, "") if complete else (None, None)
        values = (ttl_s, stamp + 1, lines.fingerprint, *known, *where, time_text)
        proof = digest_proof(lines.fingerprint, of_these)
        partition = (*where, time_text[:4])
        if lines.has_its_blocks:
            beside = Statement(_PROVE_DIGEST, (ttl_s, stamp + 1, proof, *partition))
        else:
            of_blocks = (ttl_s, stamp + 1, proof, lines.block_packings[0], *partition)
            beside = Statement(_PROVE_DIGEST_OF_OTHER_BLOCKS, of_blocks)
        return [[*statements, Statement(_KNOWN, values)], [beside]]

    def packed(self, device_id: str, lines: MinuteLines) -> None:
        """Record that nothing is left to pack in a minute at ``lines.fingerprint``."""
        values = (self._ttl_s(lines.minute), self._stamps.next(), lines.fingerprint)
        self._db.write([[Statement(_PACKED, (*values, *at(device_id, lines.minute)))]])

    def compared(self, device_id: str, lines: MinuteLines, compared_us: int) -> list[Statement]:
        """The mutation that counts a comparison without a verdict."""
        values = (timeuuid(compared_us), lines.check_times + 1, *at(device_id, lines.minute))
        return [Statement(_COMPARED, (self._ttl_s(lines.minute), self._stamps.next(), *values))]

    def verdict(
        self, device_id: str, lines: MinuteLines, verdict: Verdict, compared_us: int
    ) -> list[list[Statement]]:
        """The mutations that record a verdict which holds at ``lines.fingerprint``."""
        minute, moment = lines.minute, timeuuid(compared_us)
        ttl_s, stamp, where = self._ttl_s(minute), self._stamps.next(), at(device_id, minute)
        conflicts = lines.conflicts + verdict.conflicts
        outcome = (verdict.state.value, lines.fingerprint, verdict.extra, conflicts)
        statements = [Statement(_VERDICT, (ttl_s, stamp, *outcome, moment, lines.check_times + 1, *where))]
        for second, row in self._digest_rows(device_id, minute) if verdict.seen else ():
            key = (*where[:2], ec_time(second), row.ec_type)
            statements.append(Statement(_CHECKED, (ttl_s, stamp, moment, lines.check_times + 1, *key)))
        proof = (ttl_s, stamp, state_proof(lines.fingerprint, verdict.state), *where[:2], where[2][:4])
        mutations = [statements]
        if verdict.state in NEEDS_ROWS or verdict.seen is not None:
            mutations.append([Statement(_PROVE_STATE, proof)])
        if verdict.extra or conflicts or verdict.state is not MinuteState.PROVEN:
            note = (*where, verdict.state.value, verdict.extra, conflicts, ttl_s, stamp)
            return [*mutations, [Statement(_NOTE, note)]]
        was_noted = lines.extra or lines.conflicts or lines.state not in (None, MinuteState.PROVEN)
        return [*mutations, [Statement(_UNNOTE, (stamp, *where))]] if was_noted else mutations


def at(device_id: str, minute: int) -> tuple[str, str, str]:
    """The key of a minute in ``ec_minute`` and ``ec_notable``."""
    return device_id, ec_date(minute), ec_time(minute)
