"""What several writers and readers of one minute must know of each other, without transactions; pure.

Cassandra has no transaction over two partitions, and no clock that two servers share. So whether a
cached digest or a verdict still holds is never a question of time, but of versions:

1. A writer, before its first row of a minute, puts its own line beside the minute's (``hold``), and
   changes the line's version after each group of rows is stored (``touch``). Only it changes that line.
2. Whoever reads the rows reads the minute's lines FIRST. What it concludes (digests, verdict) is
   stored with the fingerprint of all those versions, and holds only while the fingerprint is the
   same. A row that the reader may have missed was stored after it had read the lines, and so was
   the new version that follows the row: the conclusion is void, in whatever order things arrive.
3. A writer that dies between its rows and the new version leaves its line leased. A line whose lease
   is long over proves nothing: a reader first settles it, by a line of its own beside it, which
   changes the fingerprint; then it reads the rows. While it lives, a writer renews its lease before
   it sends rows, so it is never mistaken for dead by clocks that agree within SKEW_S.
4. Reads and writes overlap at QUORUM: what was acknowledged is seen by the next read. At a lower
   consistency (cassandra.consistency = ONE with several copies) proof is as weak as that.
5. What is concluded stands in two places: in the minute's record (``ec_minute``), and with the rows, in
   static columns of their own partition (``digest_proof``, ``state_proof``). It holds only where both
   agree. If rows disappear or go back to an older state, with their table, their partition or a restored
   snapshot, what stands with them goes too, and the record alone proves nothing.
6. One level up, a day has a line a writer too (``ec_day``), whose version changes with each ``hold``,
   after the minute's line is stored and before its rows. What is concluded of a whole day holds while
   the day's fingerprint is the same and was concluded when no minute of it was leased.
7. Packed rows stand in another table. Both partitions say which packing was the last (``last_packing``):
   the blocks' before the rows are deleted, the rows' in the mutation that deletes them. What is concluded
   holds only if the blocks know of the packing that the rows' partition names, so that it goes, too,
   where blocks disappear or go back to an older state. Packing changes no version.
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
"""How long a writer may go on after its last renewal."""
SKEW_S = 60
"""How far the clocks of two servers may differ before one takes the other's writer for dead."""
SETTLED = "/settled"
"""Ends the name of a line that settles another writer's."""


NEEDS_ROWS = (MinuteState.PROVEN, MinuteState.UNCONFIRMABLE)
"""States that say something of stored rows, and so have to stand with them."""


@dataclass(frozen=True, slots=True)
class WriterLine:
    """What a writer says of one minute."""

    version: int
    leased_until_us: int | None
    """None: it is done with the minute."""


@dataclass(frozen=True, slots=True)
class MinuteLines:
    """All that is on record of one minute of one device."""

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
    """What stands with the rows (rule 5)."""
    state_proof: str | None = None
    packed_version: str | None = None
    """The writers' versions at which nothing was left to pack."""
    last_packing: int | None = None
    """The last packing, as the rows' partition names it (rule 7)."""
    block_packings: tuple[int | None, int | None] = (None, None)
    """The last packing, and the one before it that the rows may still name, as the blocks know them."""

    @property
    def needs_proof(self) -> bool:
        """Whether the record says something that only what stands with the rows can confirm."""
        versions = (self.digest_version, self.state_version if self.state in NEEDS_ROWS else None)
        return self.fingerprint in versions

    @property
    def has_its_blocks(self) -> bool:
        """Whether the blocks that belong to the rows are there (rule 7)."""
        return self.last_packing is None or self.last_packing in self.block_packings

    @property
    def is_packed(self) -> bool:
        """Whether there is nothing to pack."""
        return self.packed_version == self.fingerprint

    @property
    def was_written(self) -> bool:
        """Whether any writer put a line there; it may have died before its first row."""
        return bool(self.writers)

    @property
    def fingerprint(self) -> str:
        """The writers' versions as one text; empty where nobody wrote."""
        return fingerprint((name, line.version) for name, line in self.writers.items())

    @property
    def is_leased(self) -> bool:
        """Whether a writer may still be adding rows, or died while it did."""
        return bool(self._unsettled())

    def abandoned(self, now_us: int) -> list[tuple[str, int]]:
        """``(writer, version)`` of the lines whose lease is long over."""
        limit_us = now_us - SKEW_S * 1_000_000
        return [(name, line.version) for name, line in self._unsettled() if _ends(line) < limit_us]

    def is_busy(self, now_us: int) -> bool:
        """Whether a writer that lives may still be adding rows."""
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
        """Whether there are digests in ec_checksum that may be true of the rows: see ``confirms``."""
        return self.digest_version == self.fingerprint and not self.abandoned(now_us)

    def confirms(self, digest: Digest | None) -> bool:
        """Whether what stands with the rows is this: the digest over the cached seconds."""
        return self.has_its_blocks and self.digest_proof == digest_proof(self.fingerprint, digest)

    def minute_digest(self, now_us: int) -> tuple[bool, Digest | None]:
        """``(known, the minute digest or None for no rows)``."""
        if self.minute_md5 is None or not self.has_digests(now_us):
            return False, None
        digest = Digest(self.minute_count, self.minute_md5) if self.minute_count else None
        return (True, digest) if self.confirms(digest) else (False, None)

    def verdict(self, now_us: int) -> MinuteState | None:
        """The state that holds; None: not compared since the minute was last written."""
        if self.state is None or self.state_version != self.fingerprint or self.abandoned(now_us):
            return None
        is_confirmed = self.has_its_blocks and self.state_proof == state_proof(self.fingerprint, self.state)
        return self.state if is_confirmed or self.state not in NEEDS_ROWS else None

    def record(self, now_us: int) -> MinuteRecord:
        """What the rest of the server knows a minute by."""
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
    """A text that differs wherever a writer or a version differs; empty for none."""
    listed = "".join(f"{name}:{version}\n" for name, version in sorted(versions))
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() if listed else ""


def digest_proof(fingerprint: str, digest: Digest | None) -> str:
    """What stands with the rows of a minute whose cached seconds make up this digest (None: no seconds)."""
    return f"{fingerprint} {digest.count} {digest.md5}" if digest else f"{fingerprint} 0"


def state_proof(fingerprint: str, state: MinuteState) -> str:
    """What stands with the rows of a minute in this state."""
    return f"{fingerprint} {state.value}"


def minutes_of_rows(ec_date: str, rows: Iterable[Any]) -> dict[int, MinuteLines]:
    """Rows of ``ec_minute`` of one device and date, ascending, to what they say of each minute."""
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
