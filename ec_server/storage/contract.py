"""The contract that every storage engine keeps, however it stores the data.

Rules for every engine (test/contract runs the same suite against all of them):

1. ``ingest``, ``repair`` and ``replay`` are atomic and durable: when one returns, every batch is
   committed; when it raises, none is. A result that says "stored" means committed.
2. A batch that is written twice is stored as one row. Rows are ordered by ``StoredRow.rank``: where rows of
   one second overlap, the row of the highest rank wins. If a row with the batch's key but other samples is
   stored already, the two are merged into one row (merge.py).
3. Nothing that was stored is lost: a row that is replaced is moved to ``ec_replaced`` in the same
   transaction. A batch that is stored already is a duplicate and changes nothing.
4. ``ec_checksum`` is a cache; the rows are the truth. Unless a writer continues a minute that it alone has
   written, a write removes the cached digests and the verdict of the minutes it changes, in the same
   transaction. A digest that is not cached is computed from the rows on request. A change of rows by
   another program counts as a write.
5. A verdict is recorded only if the minute's digest is still the one that was compared, and it is stored
   with the rows: if they disappear or revert to an older state, so does the verdict. Data that is
   kept elsewhere can make a minute unproven, but never proven.
6. A damaged row or file affects only its own minute or day, and is reported by ``health``.
7. A call for one device never changes another device's rows.

A store object may be used by one thread at a time, and must not be inherited through a fork. Several
processes and threads may each open a store on the same data.

Errors: ``RetryableStorageError`` (the caller keeps its data and tries again) and ``PermanentStorageError``
(the caller reports degraded health); see utilities/errors.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True, slots=True)
class FinishedMinute:
    """Digests of a minute that one writer wrote from beginning to end, updated while it wrote.

    ``seconds`` are ``(epoch second, digest)``, ascending. ``complete`` says that these are all non-empty
    seconds of the minute; otherwise the digests of the others (their samples were late or overlapped) are
    computed from the rows on request.
    """

    device_id: str
    minute: int
    seconds: tuple[tuple[int, Digest], ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ReplacedRow:
    """A row that was replaced by another, as it is kept in ``ec_replaced``."""

    row: StoredRow
    replaced_us: int
    """When it was replaced, in epoch microseconds."""
    reason: str
    """``repair`` or ``message``."""


@dataclass(frozen=True, slots=True)
class StorageHealth:
    """Whether the engine accepts writes now, and if not, why and what to do."""

    writable: bool
    detail: str = ""
    free_bytes: int | None = None
    damage: tuple[str, ...] = ()
    """Known damage, one line each, with the file's name."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The result of packing some seconds."""

    rows: int = 0
    """Rows that were moved into blocks."""
    samples: int = 0
    left: int = 0
    """Rows that cannot be packed, because a block could not reproduce them byte for byte."""

    def __add__(self, other: Packed) -> Packed:
        """The sum of both."""
        return Packed(self.rows + other.rows, self.samples + other.samples, self.left + other.left)


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """How much space the data takes."""

    rows: int
    """Bytes of rows, digests and everything else that is not a block."""
    blocks: int
    """Bytes of packed blocks."""


class Store(ABC):
    """One connection to the database; see the module's rules."""

    # --- ingest ---------------------------------------------------------------------------

    @abstractmethod
    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """Commit batches that arrived in messages, in the given order: all or none.

        All are of one UTC day (ValueError otherwise), of any number of devices. ``mark`` is committed
        in the same transaction (see ``committed_mark``).
        """

    @abstractmethod
    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """Commit a device's own values of some seconds: afterwards these values win.

        All are of one device and one UTC day (ValueError otherwise). Each second is changed completely or
        not at all. ``changed`` is False for a batch whose values won already.
        """

    @abstractmethod
    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """Commit rows of one UTC day that were inserted earlier: into another engine, or into the spool.

        They keep their insert time and rank, so they never win over rows that were inserted later.
        """

    @abstractmethod
    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """Record rows that were replaced in another engine; those that are recorded already are skipped.

        No winning value changes.
        """

    @abstractmethod
    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """``(sequence, stored, duplicate)`` of the last write by ``writer`` that was committed on a day.

        None if there was none, or where the engine cannot know (Cassandra).
        """

    @abstractmethod
    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """Cache the digests of minutes that nobody else has written to; returns how many were cached.

        A minute that another writer has changed since is left out: its digests are computed from the
        rows on request.
        """

    # --- reading --------------------------------------------------------------------------

    @abstractmethod
    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """The stored rows of seconds ``[start, stop)``, by second, then by rank, ascending."""

    @abstractmethod
    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """The replaced rows of seconds ``[start, stop)``, in the order of their replacement."""

    @abstractmethod
    def second_text(self, device_id: str, second: int) -> str:
        """The second's winning samples as canonical text, ascending; "" if there are none."""

    @abstractmethod
    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """``(second, digest)`` of the minute's non-empty seconds, ascending.

        ``from_rows`` computes them from the rows and replaces the cached ones.
        """

    @abstractmethod
    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """``(minute, digest)`` of the non-empty minutes in ``[start, stop)``, ascending.

        Digests that are not cached are computed from the rows, and cached unless the store is read-only.
        """

    @abstractmethod
    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, sum of the rows' sample counts)`` of the non-empty minutes, ascending."""

    # --- proof ----------------------------------------------------------------------------

    @abstractmethod
    def note_devices(self, seen: Mapping[str, int]) -> None:
        """Record devices as seen, or move their ``last_seen`` forward: device id to epoch microseconds."""

    @abstractmethod
    def devices(self) -> list[DeviceRecord]:
        """Every recorded device, ascending by id."""

    @abstractmethod
    def device(self, device_id: str) -> DeviceRecord | None:
        """One device's record; None if it was never seen."""

    @abstractmethod
    def earliest_minute(self, device_id: str) -> int | None:
        """The earliest minute that has stored rows of the device; None if there are none."""

    @abstractmethod
    def stored_days(self) -> list[tuple[str, int]]:
        """Each ``(device, day)`` that has rows, ascending, recorded devices or not; expensive."""

    @abstractmethod
    def latest_second(self) -> int | None:
        """The latest second that has rows of any device; None if there are none."""

    @abstractmethod
    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of minutes in ``[start, stop)`` that are not settled (model.SETTLED), ascending."""

    @abstractmethod
    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """Ranges of minutes in ``[start, stop)`` that are recorded in one of the states, ascending."""

    @abstractmethod
    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """Record verdicts, and update ``check_time`` and ``check_times`` of the minutes and their seconds.

        Returns the minutes whose stored digest is no longer ``Verdict.seen``: they stay unproven.
        """

    @abstractmethod
    def note_coverage(self, device_id: str, start: int) -> None:
        """Record the first minute that rounds cover; this proves nothing.

        ``DeviceRecord.verified_through`` is derived: the first minute from there on that is not settled.
        """

    @abstractmethod
    def note_reopened(self, device_id: str, reopened: Sequence[tuple[int, int]]) -> None:
        """Record which minutes the device is recording again (``DeviceRecord.reopened``).

        Even if they are proven, they are asked for again, on this connection and on later ones, until a
        round has compared them. Like everything that makes minutes unproven, this survives a power failure.
        """

    @abstractmethod
    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """The records of the minutes in ``[start, stop)`` that are non-empty or were compared, ascending.

        Never computes a digest that is not cached.
        """

    def checks(self, device_id: str, minute: int) -> dict[tuple[int, str], tuple[int | None, int]]:
        """When the digests of a minute and of its seconds were last compared (epoch us), and how often.

        By ``(second, ec_type)``. An engine that does not keep this per second returns that of the minute.
        """
        records = self.minutes(device_id, minute, minute + 60)
        check = (records[0].check_time_us, records[0].check_times) if records else (None, 0)
        return {(minute, "P"): check} | {(minute + i, "S"): check for i in range(60)}

    # --- keeping --------------------------------------------------------------------------

    @abstractmethod
    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with rows, ended before ``before``, whose minute digest is not cached."""

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """``(device, minute)`` that ended before ``before`` and has rows to pack, oldest first.

        Empty for an engine that does not pack.
        """
        return []

    def count_unpacked(self, before: int) -> int:
        """How many minutes ``unpacked_minutes`` would return without a limit."""
        return 0

    def pack_minutes(self, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        """Replace the rows of ``(device, minute)`` by blocks (docs/block-format.md), in bounded steps.

        Yields what each step has done. A minute that is written to meanwhile is left as it is. What can be
        read through this contract does not change. Safe to interrupt, or to abandon after a step.
        """
        yield from ()

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """All steps of one minute."""
        return sum(self.pack_minutes([(device_id, minute)]), Packed())

    def return_space(self, before: int) -> bool:
        """Return some of the space that packing freed before ``before``; True if there is more to return."""
        return False

    def stored_bytes(self) -> StoredBytes | None:
        """How much space the data takes; None if the engine cannot tell."""
        return None

    @abstractmethod
    def remove_before(self, day: int) -> list[str]:
        """Remove every whole day before ``day``; returns the ``ec_date`` of each removed day."""

    @abstractmethod
    def health(self) -> StorageHealth:
        """Whether a write would be accepted now. Cheap enough to call every second."""

    @abstractmethod
    def close(self) -> None:
        """Close every file and connection. The object cannot be used afterwards."""

    def __enter__(self) -> Self:
        """The store itself, for ``with open_store(...) as store``."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the store."""
        self.close()
