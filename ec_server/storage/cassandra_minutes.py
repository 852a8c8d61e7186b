"""How several writers and readers of one minute coordinate without transactions; pure.

Cassandra has no transactions over two partitions, and servers have no common clock. Whether a cached digest
or a verdict still holds is therefore decided by versions, never by time:

1. Before its first row of a minute, a writer stores a line of its own for the minute (``hold``). It changes
   the line's version after each group of rows is stored (``touch``). Nobody else changes that line.
2. A reader reads the minute's lines FIRST, then the rows. Its conclusions (digests, verdict) are stored with
   the fingerprint of all those versions, and hold only while the fingerprint is the same. If the reader
   missed a row, that row was stored after the lines were read, and the new version that follows the row
   makes the conclusion void, in whatever order the writes arrive.
3. A writer that dies between its rows and the new version leaves its line leased. A line whose lease
   expired long ago proves nothing: a reader first settles it by adding a line of its own, which changes the
   fingerprint, and then reads the rows. A live writer renews its lease before it sends rows, so that it is
   never mistaken for dead as long as clocks agree within SKEW_S.
4. Reads and writes overlap at QUORUM: the next read sees everything that was acknowledged. With a lower
   consistency (cassandra.consistency = ONE with several replicas) proof is only as strong as that.
5. A conclusion is stored in two places: in the minute's record (``ec_minute``), and with the rows, in
   static columns of their partition (``digest_proof``, ``state_proof``). It holds only if both agree. If rows
   disappear or revert to an older state (a dropped table, a deleted partition, a restored snapshot), so
   does what is stored with them, and the record alone proves nothing.
6. A day has one line per writer as well (``ec_day``). Its version changes with each ``hold``, after the
   minute's line is stored and before its rows. A conclusion about a whole day holds while the day's
   fingerprint is the same, and must be drawn when no minute of the day is leased.
7. Packed rows are in another table. Both partitions name the last packing (``last_packing``): the blocks'
   partition before the rows are deleted, the rows' partition in the mutation that deletes them. A
   conclusion holds only if the blocks know the packing that the rows' partition names, so that it is void
   if blocks disappear or revert to an older state. Packing changes no version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ec_server.storage.timeuuid import microseconds
from utilities.model import Digest, MinuteRecord, MinuteState
from utilities.utc import is_ec_time, parse_ec

LEASE_S = 60
"""How long a writer may continue after its last renewal."""
SKEW_S = 60
"""How far the clocks of two servers may differ before one considers the other's writer dead."""
SETTLED = "/settled"
"""Suffix of the name of a line that settles another writer's line."""


NEEDS_ROWS = (MinuteState.PROVEN, MinuteState.UNCONFIRMABLE)
"""States that say something about stored rows, and so have to be stored with them."""


@dataclass(frozen=True, slots=True)
class WriterLine:
    """One writer's line of a minute."""

    version: int
    leased_until_us: int | None
    """None if it has finished the minute."""


@dataclass(frozen=True, slots=True)
class MinuteLines:
    """The whole record of one minute of one device."""

    minute: int
    writers: Mapping[str, WriterLine] = field(default_factory=dict)
    digest_version: str | None = None
    minute_count: int | None = None
    minute_md5: str | None = None
    state: MinuteState | None = None
    state_version: str | None = None
    extra: int = 0
    conflicts: int = 0
    check_time_us: int | None = None
    check_times: int = 0
    digest_proof: str | None = None
    """Stored with the rows (rule 5)."""
    state_proof: str | None = None
    packed_version: str | None = None
    """The writers' versions at which nothing was left to pack."""
    last_packing: int | None = None
    """The last packing that the rows' partition names (rule 7)."""
    block_packings: tuple[int | None, int | None] = (None, None)
    """The last packing that the blocks know, and the one before it, which the rows may still name."""

    @property
    def needs_proof(self) -> bool:
        """Whether the record holds a conclusion that what is stored with the rows must confirm."""
        versions = (self.digest_version, self.state_version if self.state in NEEDS_ROWS else None)
        return self.fingerprint in versions

    @property
    def has_its_blocks(self) -> bool:
        """Whether the blocks that belong to the rows exist (rule 7)."""
        return self.last_packing is None or self.last_packing in self.block_packings

    @property
    def is_packed(self) -> bool:
        """Whether there is nothing to pack."""
        return self.packed_version == self.fingerprint

    @property
    def was_written(self) -> bool:
        """Whether any writer has a line; it may have died before its first row."""
        return bool(self.writers)

    @property
    def fingerprint(self) -> str:
        """The writers' versions as one text; empty if nobody wrote."""
        return fingerprint((name, line.version) for name, line in self.writers.items())

    @property
    def is_leased(self) -> bool:
        """Whether a writer may still be adding rows, or died while adding some."""
        return bool(self._unsettled())

    def abandoned(self, now_us: int) -> list[tuple[str, int]]:
        """``(writer, version)`` of the lines whose lease expired long ago."""
        limit_us = now_us - SKEW_S * 1_000_000
        return [(name, line.version) for name, line in self._unsettled() if _ends(line) < limit_us]

    def is_busy(self, now_us: int) -> bool:
        """Whether a live writer may still be adding rows."""
        return len(self._unsettled()) > len(self.abandoned(now_us))

    def _unsettled(self) -> list[tuple[str, WriterLine]]:
        return [
            (name, line)
            for name, line in self.writers.items()
            if line.leased_until_us is not None and not self._is_settled(name, line)
        ]

    def _is_settled(self, name: str, line: WriterLine) -> bool:
        settled = self.writers.get(name + SETTLED)
        return settled is not None and settled.version == line.version

    def has_digests(self, now_us: int) -> bool:
        """Whether ec_checksum has digests that may match the rows: see ``confirms``."""
        return self.digest_version == self.fingerprint and not self.abandoned(now_us)

    def confirms(self, digest: Digest | None) -> bool:
        """Whether what is stored with the rows is this digest over the cached seconds."""
        return self.has_its_blocks and self.digest_proof == digest_proof(self.fingerprint, digest)

    def minute_digest(self, now_us: int) -> tuple[bool, Digest | None]:
        """``(whether it is known, the minute digest or None if there are no rows)``."""
        if self.minute_md5 is None or not self.has_digests(now_us):
            return False, None
        digest = Digest(self.minute_count, self.minute_md5) if self.minute_count else None
        return (True, digest) if self.confirms(digest) else (False, None)

    def verdict(self, now_us: int) -> MinuteState | None:
        """The state that holds; None if the minute was not compared since it was last written."""
        if self.state is None or self.state_version != self.fingerprint or self.abandoned(now_us):
            return None
        is_confirmed = self.has_its_blocks and self.state_proof == state_proof(self.fingerprint, self.state)
        return self.state if is_confirmed or self.state not in NEEDS_ROWS else None

    def record(self, now_us: int) -> MinuteRecord:
        """The minute's record as the rest of the server knows it."""
        return MinuteRecord(
            self.minute,
            self.minute_digest(now_us)[1],
            self.verdict(now_us),
            self.extra,
            self.conflicts,
            self.check_time_us,
            self.check_times,
            self.was_written and self.is_packed,
        )


def fingerprint(versions: Iterable[tuple[str, int]]) -> str:
    """A text that is different for different writers or versions; empty if there are none."""
    listed = "".join(f"{name}:{version}\n" for name, version in sorted(versions))
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() if listed else ""


def digest_proof(fingerprint: str, digest: Digest | None) -> str:
    """The ``digest_proof`` of a minute whose cached seconds have this digest (None: no seconds)."""
    return f"{fingerprint} {digest.count} {digest.md5}" if digest else f"{fingerprint} 0"


def state_proof(fingerprint: str, state: MinuteState) -> str:
    """The ``state_proof`` of a minute in this state."""
    return f"{fingerprint} {state.value}"


def minutes_of_rows(ec_date: str, rows: Iterable[Any]) -> dict[int, MinuteLines]:
    """The record of each minute, from ascending rows of ``ec_minute`` of one device and date."""
    writers: dict[int, dict[str, WriterLine]] = {}
    records: dict[int, dict[str, Any]] = {}
    for row in filter(lambda row: is_ec_time(row.ec_time), rows):
        minute = parse_ec(ec_date, row.ec_time)
        lines = writers.setdefault(minute, {})
        if row.writer:
            if row.version is not None:
                lines[row.writer] = WriterLine(row.version, row.leased_until)
        else:
            records[minute] = _record_fields(row)
    return {
        minute: MinuteLines(minute, lines, **records.get(minute, {})) for minute, lines in writers.items()
    }


def _record_fields(row: Any) -> dict[str, Any]:
    return {
        "digest_version": row.digest_version,
        "minute_count": row.minute_count,
        "minute_md5": row.minute_md5,
        "state": MinuteState(row.state) if row.state else None,
        "state_version": row.state_version,
        "extra": row.extra or 0,
        "conflicts": row.conflicts or 0,
        "check_time_us": microseconds(row.check_time) if row.check_time else None,
        "check_times": row.check_times or 0,
        "packed_version": row.packed_version,
    }


def _ends(line: WriterLine) -> int:
    return line.leased_until_us or 0
