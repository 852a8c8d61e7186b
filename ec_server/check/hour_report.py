"""Reads one UTC hour of one device from any store: what is stored and proven, minute by minute.

It only reads: with a read-only store nothing is created or changed, and the server may run meanwhile.
Samples are counted by the digests, which count a microsecond only once if rows overlap.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from ec_server.storage.contract import Store
from utilities import utc
from utilities.checksum_util import parse_canonical
from utilities.model import UNPROVEN, Digest, MinuteRecord, MinuteState


class CheckState(Enum):
    """What is known of a minute, in one word: the recorded states, and three for minutes without one."""

    PROVEN = MinuteState.PROVEN.value
    UNCONFIRMABLE = MinuteState.UNCONFIRMABLE.value
    UNRESOLVED = MinuteState.UNRESOLVED.value
    EMPTY = MinuteState.EMPTY.value
    UNPROVEN = UNPROVEN
    """Compared before, but written to since: it will be compared again."""
    NOT_COMPARED = "not_compared"
    ABSENT = "absent"
    """Nothing is stored or recorded."""


@dataclass(frozen=True, slots=True)
class MinuteLine:
    """One minute: ``samples`` counts each microsecond once, ``rows`` the messages stored."""

    minute: int
    samples: int
    rows: int
    expected: int
    state: CheckState
    md5: str | None
    check_time_us: int | None = None
    check_times: int = 0
    extra: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class SecondLine:
    """One second of the chosen minute."""

    second: int
    samples: int
    rows: int
    expected: int
    md5: str | None


@dataclass(frozen=True, slots=True)
class Waveform:
    """The samples of one second: microseconds, ascending, and their values."""

    second: int
    microseconds: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HourReport:
    """60 minutes, the 60 seconds of one of them, and the samples of a second if requested."""

    device_id: str
    hour: int
    rate: int
    """Samples per second that a complete second has."""
    minutes: tuple[MinuteLine, ...]
    seconds: tuple[SecondLine, ...]
    waveform: Waveform | None = None

    @property
    def samples(self) -> int:
        """Samples stored in the hour."""
        return sum(line.samples for line in self.minutes)

    @property
    def rows(self) -> int:
        """Rows stored in the hour."""
        return sum(line.rows for line in self.minutes)


def read_hour(
    store: Store, device_id: str, moment: int, rate: int, wave_second: int | None = None
) -> HourReport:
    """The report on the UTC hour that contains epoch second ``moment``.

    The seconds are those of the minute that contains ``moment``; ``wave_second`` is the epoch second whose
    samples are included. Raises StorageError.
    """
    hour = moment - moment % utc.HOUR_S
    return HourReport(
        device_id,
        hour,
        rate,
        _minutes(store, device_id, hour, rate),
        _seconds(store, device_id, utc.minute_of(moment), rate),
        None if wave_second is None else _waveform(store, device_id, wave_second),
    )


def _minutes(store: Store, device_id: str, hour: int, rate: int) -> tuple[MinuteLine, ...]:
    span = (device_id, hour, hour + utc.HOUR_S)
    rows = {minute: count for minute, count, _samples in store.row_counts(*span)}
    digests = dict(store.minute_digests(*span))
    records = {record.minute: record for record in store.minutes(*span)}
    return tuple(
        _minute(minute, rows.get(minute, 0), digests.get(minute), records.get(minute), rate)
        for minute in range(hour, hour + utc.HOUR_S, utc.MINUTE_S)
    )


def _minute(
    minute: int, rows: int, digest: Digest | None, record: MinuteRecord | None, rate: int
) -> MinuteLine:
    known = record or MinuteRecord(minute, None, None)
    return MinuteLine(
        minute,
        digest.count if digest else 0,
        rows,
        rate * utc.MINUTE_S,
        check_state(record, stored=digest is not None),
        digest.md5 if digest else None,
        known.check_time_us,
        known.check_times,
        known.extra,
        known.conflicts,
    )


def check_state(record: MinuteRecord | None, *, stored: bool) -> CheckState:
    """The word for a minute with this ``record``, depending on whether samples are ``stored``."""
    if record and record.state:
        return CheckState(record.state.value)
    if not stored:
        return CheckState.ABSENT
    return CheckState.UNPROVEN if record and record.check_times else CheckState.NOT_COMPARED


def _seconds(store: Store, device_id: str, minute: int, rate: int) -> tuple[SecondLine, ...]:
    digests = dict(store.second_digests(device_id, minute))
    rows = Counter(row.batch.second for row in store.rows(device_id, minute, minute + utc.MINUTE_S))
    return tuple(
        SecondLine(
            second,
            digests[second].count if second in digests else 0,
            rows[second],
            rate,
            digests[second].md5 if second in digests else None,
        )
        for second in range(minute, minute + utc.MINUTE_S)
    )


def _waveform(store: Store, device_id: str, second: int) -> Waveform:
    samples = parse_canonical(store.second_text(device_id, second))
    return Waveform(second, tuple(samples), tuple(map(float, samples.values())))
