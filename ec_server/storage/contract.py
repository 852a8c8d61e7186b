"""What every storage engine promises, independent of how it does it.

Rules that hold for each engine (test/contract runs the same suite against all of them):

1. ``ingest``, ``repair`` and ``replay`` are atomic and durable: when one returns, every batch is
   committed; when it raises, none is. A result that says "stored" means committed.
2. The same batch twice is one row. Rows rank by ``StoredRow.rank``; where rows of one second overlap,
   the highest rank wins. A batch that meets a row of its key with other samples becomes one row that
   holds both, and for what did not arrive takes the values that win in that second (merge.py).
3. Nothing that was stored is lost: a row that is replaced goes into ``ec_replaced`` in the same
   transaction. A batch that is stored already was received before, and changes nothing.
4. ``ec_checksum`` is a cache of the truth in the rows. Any write that is not the continuation of
   the writer's own open minute removes the cached digests it touches and the minute's verdict, in
   the same transaction; what is absent is computed from the rows when asked for. A minute whose
   rows were changed by another tool counts as written.
5. A verdict is recorded only if the minute's digest is still the one that was compared, and it is stored
   with the rows: if they disappear or go back to an older state, so does the verdict. What is kept
   elsewhere may take proof away, never give it.
6. What cannot be read (a damaged row or file) affects only its own minute or day, and
   is named in ``health``.
7. One device's call never touches another device's rows.

A store object belongs to one thread at a time and is opened after the process has started (never
carried over a fork). Several processes and threads may each have their own on the same data.

Errors: ``RetryableStorageError`` (the caller keeps what it wanted to write and tries again) and
``PermanentStorageError`` (it reports degraded health); see utilities/errors.py.
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
    """Digests of a minute that one writer saw from beginning to end, kept up while it wrote.

    ``seconds`` are ``(epoch second, digest)`` of the seconds whose digest was kept up, ascending.
    ``complete`` says that these are all non-empty seconds of the minute; otherwise the others (their
    samples came too late or overlapped) are computed from the rows when asked for.
    """

    device_id: str
    minute: int
    seconds: tuple[tuple[int, Digest], ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ReplacedRow:
    """A row that another took the place of, as ``ec_replaced`` keeps it."""

    row: StoredRow
    replaced_us: int
    """When, epoch microseconds."""
    reason: str
    """``repair`` or ``message``."""


@dataclass(frozen=True, slots=True)
class StorageHealth:
    """Whether the engine takes writes at the moment, and if not, why and what to do."""

    writable: bool
    detail: str = ""
    free_bytes: int | None = None
    damage: tuple[str, ...] = ()
    """What is damaged, one line each, with the file's name; empty if nothing is known to be."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What packing some seconds did."""

    rows: int = 0
    """Rows that are in blocks now and were not before."""
    samples: int = 0
    left: int = 0
    """Rows that cannot be packed: a block would not give them back byte for byte."""

    def __add__(self, other: Packed) -> Packed:
        """Both together."""
        return Packed(self.rows + other.rows, self.samples + other.samples, self.left + other.left)


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """How much space the data takes."""

    rows: int
    """Rows, digests and everything else that is not a block."""
    blocks: int


class Store(ABC):
    """One connection to the database; see the module's rules."""

    # --- ingest ---------------------------------------------------------------------------

    @abstractmethod
    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """Commit batches that arrived in messages, in the order given, all or none.

        They are of one UTC day (ValueError otherwise) and may belong to many devices. ``mark`` is
        committed with them (see ``committed_mark``).
        """

    @abstractmethod
    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """Commit what the device, as the authority, says of one second: afterwards these values win.

        They are of one device and one UTC day (ValueError otherwise); each second changes all or not at
        all. ``changed`` is False for a batch whose values won already.
        """

    @abstractmethod
    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """Commit rows of one UTC day that were inserted before: in another engine, or in the spool.

        They keep their insert time and their rank, so they never win over what was inserted later.
        """

    @abstractmethod
    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """Record what was replaced in another engine; what is recorded already is skipped.

        It changes no value that wins.
        """

    @abstractmethod
    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """``(sequence, stored, duplicate)`` of the last write of ``writer`` that committed on a day.

        None if there was none, or where the engine cannot know (Cassandra).
        """

    @abstractmethod
    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """Cache the digests of minutes that no one else has written to; returns how many were accepted.

        A minute that another writer touched since is left out: its digests are computed from the
        rows when asked for.
        """

    # --- reading --------------------------------------------------------------------------

    @abstractmethod
    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """The stored rows of seconds ``[start, stop)``, ascending in the second, then in the rank."""

    @abstractmethod
    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """The rows of seconds ``[start, stop)`` that others took the place of, oldest replacement first."""

    @abstractmethod
    def second_text(self, device_id: str, second: int) -> str:
        """The second's samples as canonical text, ascending, latest insertion winning; "" for none."""

    @abstractmethod
    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """``(second, digest)`` of the minute's non-empty seconds, ascending.

        ``from_rows`` reads every row again and replaces what is cached.
        """

    @abstractmethod
    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """``(minute, digest)`` of the non-empty minutes in ``[start, stop)``, ascending.

        Digests that are absent are computed from the rows and cached (a read-only store only
        computes them).
        """

    @abstractmethod
    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples as the rows count them)`` of the non-empty minutes, ascending."""

    # --- proof ----------------------------------------------------------------------------

    @abstractmethod
    def note_devices(self, seen: Mapping[str, int]) -> None:
        """Put devices on record, or move their ``last_seen`` forward: device id to epoch microseconds."""

    @abstractmethod
    def devices(self) -> list[DeviceRecord]:
        """Every device on record, ascending by id."""

    @abstractmethod
    def device(self, device_id: str) -> DeviceRecord | None:
        """One device's record; None if it was never seen."""

    @abstractmethod
    def earliest_minute(self, device_id: str) -> int | None:
        """The earliest minute that has stored rows of the device; None if there are none."""

    @abstractmethod
    def stored_days(self) -> list[tuple[str, int]]:
        """``(device, day)`` wherever there are rows, by device and day, on record or not; reads a lot."""

    @abstractmethod
    def latest_second(self) -> int | None:
        """The latest second of which any device has rows; None if there are none."""

    @abstractmethod
    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of minutes in ``[start, stop)`` that are not settled (model.SETTLED), ascending."""

    @abstractmethod
    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """Ranges of minutes in ``[start, stop)`` that are on record in one of the states, ascending."""

    @abstractmethod
    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """Put verdicts on record, with ``check_time`` and ``check_times`` of minute and seconds.

        Returns the minutes whose stored rows changed since ``Verdict.seen``: they stay unproven.
        """

    @abstractmethod
    def note_coverage(self, device_id: str, start: int) -> None:
        """Put on record at which minute the rounds' coverage begins; it proves nothing.

        ``DeviceRecord.verified_through`` is derived: the first minute from there on that is not settled.
        """

    @abstractmethod
    def note_reopened(self, device_id: str, reopened: Sequence[tuple[int, int]]) -> None:
        """Put on record which minutes the device records again (``DeviceRecord.reopened``).

        They are asked for, even if they are proven, on this connection and on later ones, until a
        round has compared them. It outlasts a power failure, as all that takes proof away.
        """

    @abstractmethod
    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """What is on record of the minutes in ``[start, stop)``, non-empty or compared, ascending.

        Never computes a digest that is not cached.
        """

    def checks(self, device_id: str, minute: int) -> dict[tuple[int, str], tuple[int | None, int]]:
        """When the digests of a minute and its seconds were last compared (epoch us), and how often.

        By ``(second, ec_type)``; an engine that does not keep this of seconds tells that of their minute.
        """
        records = self.minutes(device_id, minute, minute + 60)
        check = (records[0].check_time_us, records[0].check_times) if records else (None, 0)
        return {(minute, "P"): check} | {(minute + i, "S"): check for i in range(60)}

    # --- keeping --------------------------------------------------------------------------

    @abstractmethod
    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with rows, ended before ``before``, whose minute digest is not cached."""

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with something to pack that ended before ``before``, oldest first.

        An engine that does not pack has none.
        """
        return []

    def count_unpacked(self, before: int) -> int:
        """How many minutes ``unpacked_minutes`` would give without a limit."""
        return 0

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """Rewrite the minute's rows as blocks (docs/block-format.md), unless it is written to meanwhile.

        Nothing that can be read through the contract changes. It may be interrupted at any point.
        """
        return Packed()

    def return_space(self, before: int) -> bool:
        """Give back some of the space that packing freed in days before ``before``; whether there is more."""
        return False

    def stored_bytes(self) -> StoredBytes | None:
        """How much space the data takes; None if the engine cannot know."""
        return None

    @abstractmethod
    def remove_before(self, day: int) -> list[str]:
        """Remove every whole day before ``day``; the ``ec_date`` of the days that went."""

    @abstractmethod
    def health(self) -> StorageHealth:
        """Whether a write would be taken now. Cheap enough to be asked every second."""

    @abstractmethod
    def close(self) -> None:
        """Let go of every file or connection. The object cannot be used afterwards."""

    def __enter__(self) -> Self:
        """The store itself, so that ``with open_store(...) as store`` closes it."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close, whatever happened."""
        self.close()
