"""Moves data between the engines: rows with their moments, proof, devices; verified by digest at the end.

    python -m ec_server.storage.move_data --from sqlite --to cassandra [-c FILE] [--device ID ...]

Rules:

1. A day of a device is moved minute by minute; rows that the target has already are passed over, so
   a run that was broken off, or is repeated, goes on where it was. Nothing is removed at the source.
2. When all is moved, every minute of every day is compared from the rows of both sides. A verdict
   (proven, not confirmable) is carried over only where the two digests are the same.
3. The server may run meanwhile; what it writes to the source after its minute was moved makes the
   comparison fail, and the next run moves it.
4. What is moved are the minutes on record. Rows that another program put into Cassandra itself are
   on record once they were read from the rows: audit such a device before (docs/storage.md).

Exit codes: 0 moved and verified, 1 something differs or could not be done, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configuration.properties_reader import read_settings
from ec_server.storage import ranges
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store
from utilities import log
from utilities.errors import ConfigurationError, StorageError
from utilities.model import Digest, MinuteRecord, StoredRow, Verdict
from utilities.utc import DAY_S, MINUTE_S, day_of, minute_text, parse_minute

_ENGINES = ("sqlite", "cassandra")
_ROWS_A_WRITE = 2000


@dataclass(frozen=True, slots=True)
class DeviceDay:
    """A day of a device, and its minutes that have rows or verdicts at the source."""

    device_id: str
    day: int
    minutes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A minute that is not the same on both sides."""

    device_id: str
    minute: int
    source: Digest | None
    target: Digest | None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    options = _parser().parse_args(arguments)
    log.set_up("move_data")
    try:
        settings = read_settings(options.config, os.environ)
        first, last = _day(options.since, 0), _day(options.until, 2**62)
        if options.source == options.target:
            raise ConfigurationError(f"--from and --to are both {options.source}")
        with (
            open_store(replace(settings, storage_engine=options.source), read_only=True) as source,
            open_store(replace(settings, storage_engine=options.target)) as target,
        ):
            return _move(source, target, options.device, first, last)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"broken off, run it again to go on: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ec_server.storage.move_data",
        description="Copy stored data to the other engine and verify it there, minute by minute.",
    )
    parser.add_argument("--from", dest="source", choices=_ENGINES, required=True)
    parser.add_argument("--to", dest="target", choices=_ENGINES, required=True)
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration of both engines")
    parser.add_argument("--device", action="append", metavar="ID", help="only this device; may be repeated")
    parser.add_argument("--since", metavar="YYYYMMDD", help="first day")
    parser.add_argument("--until", metavar="YYYYMMDD", help="last day")
    return parser


def _day(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return parse_minute(text + "0000")
    except ValueError as error:
        raise ConfigurationError(f"{text} is not a day of the form YYYYMMDD") from error


def _move(source: Store, target: Store, devices: list[str] | None, first: int, last: int) -> int:
    console = Console(stderr=True)
    chosen = devices or [record.device_id for record in source.devices()]
    days = [one for one in _days(source, chosen) if first <= one.day <= last]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("moving", total=sum(len(one.minutes) for one in days))
        rows = sum(move_day(source, target, one, lambda: progress.advance(task)) for one in days)
        task = progress.add_task("comparing", total=len(days))
        differences = []
        for one in days:
            differences += compare_day(source, target, one)
            progress.advance(task)
    move_progress(source, target, chosen)
    for difference in differences:
        console.print(_told(difference), highlight=False, soft_wrap=True)
    console.print(f"{rows} rows moved, {len(days)} days of devices, {len(differences)} minutes differ")
    return 1 if differences else 0


def _days(source: Store, devices: Sequence[str]) -> Iterator[DeviceDay]:
    """The days on record of each device, ascending."""
    for device_id in devices:
        record, earliest = source.device(device_id), source.earliest_minute(device_id)
        if earliest is None or record is None:
            continue
        newest = max(record.last_seen_us // 1_000_000, record.verified_through or 0) + DAY_S
        for day in range(day_of(earliest), day_of(newest) + DAY_S, DAY_S):
            minutes = tuple(record.minute for record in source.minutes(device_id, day, day + DAY_S))
            if minutes:
                yield DeviceDay(device_id, day, minutes)


def move_day(source: Store, target: Store, one: DeviceDay, on_minute: Callable[[], object]) -> int:
    """Copy the rows of one day of a device that the target lacks; how many those were."""
    moved = 0
    pending: list[StoredRow] = []
    for minute in one.minutes:
        pending += _lacking(source, target, one.device_id, minute)
        if len(pending) >= _ROWS_A_WRITE:
            moved += _write(target, pending)
        on_minute()
    return moved + _write(target, pending)


def _lacking(source: Store, target: Store, device_id: str, minute: int) -> list[StoredRow]:
    rows = list(source.rows(device_id, minute, minute + MINUTE_S))
    if not rows:
        return []
    there = {row.batch.key: row.batch.checksum for row in target.rows(device_id, minute, minute + MINUTE_S)}
    return [row for row in rows if there.get(row.batch.key) != row.batch.checksum]


def _write(target: Store, pending: list[StoredRow]) -> int:
    """Write and forget what is pending, in pieces, in the order of insertion."""
    count = len(pending)
    for at in range(0, count, _ROWS_A_WRITE):
        target.replay(pending[at : at + _ROWS_A_WRITE])
    pending.clear()
    return count


def compare_day(source: Store, target: Store, one: DeviceDay) -> list[Difference]:
    """Compare one day of a device from the rows of both; carry over what is on record of equal minutes."""
    span = (one.device_id, one.day, one.day + DAY_S)
    there = {record.minute for record in target.minutes(*span)}
    ours: dict[int, Digest] = {}
    theirs: dict[int, Digest] = {}
    for start, stop in ranges.of_minutes(there.union(one.minutes)):
        ours |= dict(source.minute_digests(one.device_id, start, stop, from_rows=True))
        theirs |= dict(target.minute_digests(one.device_id, start, stop, from_rows=True))
    _move_records(target, one.device_id, [r for r in source.minutes(*span) if r.state], ours, theirs)
    return [
        Difference(one.device_id, minute, ours.get(minute), theirs.get(minute))
        for minute in sorted(ours.keys() | theirs.keys())
        if ours.get(minute) != theirs.get(minute)
    ]


def _move_records(
    target: Store,
    device_id: str,
    records: Sequence[MinuteRecord],
    ours: dict[int, Digest],
    theirs: dict[int, Digest],
) -> None:
    """Carry verdicts over, once, grouped by the moment at which they were found."""
    known = {r.minute for r in _records_of(target, device_id, records) if r.state}
    groups: dict[int, list[Verdict]] = {}
    for record in records:
        seen = ours.get(record.minute)
        if record.state and record.minute not in known and seen == theirs.get(record.minute):
            verdict = Verdict(record.minute, record.state, seen, record.extra, record.conflicts)
            groups.setdefault(record.check_time_us or 0, []).append(verdict)
    for compared_us, verdicts in groups.items():
        target.record_verdicts(device_id, verdicts, compared_us)


def _records_of(target: Store, device_id: str, like: Sequence[MinuteRecord]) -> list[MinuteRecord]:
    if not like:
        return []
    return target.minutes(device_id, like[0].minute, like[-1].minute + MINUTE_S)


def move_progress(source: Store, target: Store, devices: Sequence[str]) -> None:
    """Carry over when each device was seen first and last, and how far it is verified."""
    for device_id in devices:
        record = source.device(device_id)
        if record is None:
            continue
        target.note_devices({device_id: record.first_seen_us})
        target.note_devices({device_id: record.last_seen_us})
        if record.covered_from is not None:
            target.note_coverage(device_id, record.covered_from)


def _told(difference: Difference) -> str:
    sides = [
        f"{d.count} samples, {d.md5}" if d else "nothing" for d in (difference.source, difference.target)
    ]
    return f"{difference.device_id} {minute_text(difference.minute)}: source {sides[0]}; target {sides[1]}"


if __name__ == "__main__":
    sys.exit(main())
