"""The immutable values that the parts exchange: batch, digest, stored row, verdict, progress.

Units: times are UTC epoch seconds (see utilities/utc.py) unless a name ends in ``_us``
(microseconds). ``start_us`` and ``end_us`` are microseconds within the second, 0 to 999,999, both
inclusive, like the columns. ``values`` is always canonical text: ``UUUUUU,VALUE`` joined by ``;``,
strictly ascending in the microsecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Batch(NamedTuple):
    """The samples of one message, which become one row of ``ec_consumption``."""

    device_id: str
    second: int
    start_us: int
    end_us: int
    values: str
    count: int  # type: ignore[assignment]  # tuple's own count has no use here
    checksum: str
    """MD5 hex of ``values`` (ASCII)."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """The key of the row: batches of the same key become the same row."""
        return (self.device_id, self.second, self.start_us, self.end_us)


class StoredRow(NamedTuple):
    """A stored batch: one row of ``ec_consumption``, with its position in the order of insertion."""

    batch: Batch
    inserted_us: int
    """``insert_time``: the wall clock in epoch microseconds; does not determine the order."""
    rank: int
    """The order of insertion: where rows of one second overlap, the highest rank wins. The time of
    insertion in epoch microseconds, but always above earlier ranks, even if the clock was set back."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The number of samples, and an MD5 over them in hex (see checksum_util.py)."""

    count: int
    md5: str


@dataclass(frozen=True, slots=True)
class CommitMark:
    """Written in the same transaction as a writer's rows, so that messages are counted right if it dies.

    ``writer`` identifies one process of one run; ``sequence`` increases by one with each write call.
    """

    writer: str
    sequence: int


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a committed write."""

    changed: tuple[bool, ...]
    """For each batch, in the given order: True if it changed stored data, False if it was a duplicate (as
    far as the engine can tell)."""

    opened: frozenset[tuple[str, int]] = frozenset()
    """Each ``(device, minute)`` that had no rows before this write: its writer saw the minute begin."""

    @property
    def stored(self) -> int:
        """Batches that changed stored data."""
        return sum(self.changed)

    @property
    def duplicate(self) -> int:
        """Batches that changed nothing."""
        return len(self.changed) - self.stored


class MinuteState(Enum):
    """The recorded result of the last comparison of one minute of one device."""

    PROVEN = "proven"
    """Every sample that the device has is stored with the device's value."""
    UNCONFIRMABLE = "unconfirmable"
    """The device has nothing of this minute, so it cannot confirm what is stored."""
    UNRESOLVED = "unresolved"
    """Compared, and still different after the repair; it is compared again in the next round."""
    EMPTY = "empty"
    """Neither side has anything of this minute."""


UNPROVEN = "unproven"
"""The name for a minute without a state: not compared since it was last written."""

SETTLED = (MinuteState.PROVEN, MinuteState.UNCONFIRMABLE, MinuteState.EMPTY)
"""The states of minutes that a round does not ask for again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of comparing one minute of one device."""

    minute: int
    state: MinuteState
    seen: Digest | None
    """The stored minute digest that was compared; None if nothing was stored."""
    extra: int = 0
    """Stored samples that the device lacks (they stay)."""
    conflicts: int = 0
    """Stored values that were replaced by the device's in this comparison."""


@dataclass(frozen=True, slots=True)
class MinuteRecord:
    """The record of one minute: its digest and the result of its last comparison."""

    minute: int
    digest: Digest | None
    state: MinuteState | None
    """None if it was not compared since it was last written."""
    extra: int = 0
    conflicts: int = 0
    check_time_us: int | None = None
    check_times: int = 0
    packed: bool = False
    """All its rows are in blocks."""


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One device as the database knows it."""

    device_id: str
    first_seen_us: int
    last_seen_us: int
    covered_from: int | None = None
    """The first minute that rounds cover; None before the first round."""
    verified_through: int | None = None
    """The first minute from ``covered_from`` on that is not settled; None before the first round."""
    unresolved_minutes: int = 0
    unconfirmable_minutes: int = 0
    conflicts: int = 0
    extra: int = 0
    empty_minutes: int = 0
    reopened: tuple[tuple[int, int], ...] = ()
    """Ranges of minutes that the device said it is recording again, until they are compared."""


class RawMessage(NamedTuple):
    """A SIP MESSAGE as received: the exact bytes of its body, who sent it, and when."""

    body: bytes
    sender: str
    """``ip:port`` of the peer."""
    received_us: int
    peer_name: str = ""
    """Common name in the peer's certificate; empty if none was requested."""
    cut: bool = False
    """The SIP message was shorter than its Content-Length: over UDP it is cut at 4,000 bytes."""


class RejectReason(Enum):
    """Why a message was not stored; the value is the ``reason`` label of the metric."""

    NO_END_MARK = "no_end_mark"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    BAD_DEVICE_ID = "bad_device_id"
    BAD_TIME = "bad_time"
    TIME_TOO_FAR_AHEAD = "time_too_far_ahead"
    TIME_TOO_FAR_BACK = "time_too_far_back"
    EMPTY = "empty"
    TOO_MANY_SAMPLES = "too_many_samples"
    BAD_SAMPLE = "bad_sample"
    MICROSECOND_OUT_OF_RANGE = "microsecond_out_of_range"
    MICROSECOND_NOT_ASCENDING = "microsecond_not_ascending"
    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    UNKNOWN_DEVICE = "unknown_device"
    WRONG_NETWORK = "wrong_network"
    WRONG_CERTIFICATE = "wrong_certificate"
    UNSTORABLE = "unstorable"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a message was rejected, and what is known of its sender."""

    reason: RejectReason
    detail: str
    """One line for the log: what is wrong, and where in the body."""
    device_id: str = ""
