"""Copies data from one engine to another (rows and their ranks, replaced rows, proof, devices), and compares.

    python -m ec_server.storage.move_data --from sqlite --to cassandra [-c FILE] [--device ID ...]

Rules:

1. Each day of a device is copied minute by minute. Rows keep their insert time and rank, so that the same
   values win in both engines. Rows that the target has already are skipped, so that a run which was
   interrupted continues when it is repeated. Nothing is removed from the source.
2. Every day that has rows is copied, including days in the future and devices that are not recorded.
3. Afterwards the digests of every minute are computed from the rows on both sides and compared. A verdict
   is copied only if both digests are equal.
4. What is left out is reported: damaged rows and files, days outside --since and --until, devices that
   the source does not have. Damage and unknown devices are errors.
5. The server may run meanwhile. If it writes to a minute of the source that has been copied already, the
   comparison reports a difference, and the next run copies the rest.

Exit codes: 0 moved and verified, 1 something differs or was left out, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configuration.properties_reader import read_settings
from ec_server.storage import ranges
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store, why_no_storage
from utilities import log
from utilities.checksum_util import md5_hex
from utilities.command_line import EXIT_FAULT, run
from utilities.errors import ConfigurationError, StorageError
from utilities.model import Digest, MinuteRecord, MinuteState, StoredRow, Verdict
from utilities.private_files import make_files_private
from utilities.utc import DAY_S, MINUTE_S, minute_of, minute_text, parse_minute

_ENGINES = ("sqlite", "cassandra")
_ROWS_A_WRITE = 2000
_END = 2**62


@dataclass(frozen=True, slots=True)
class DeviceDay:
    """One day of a device, and its minutes that have rows or verdicts in the source."""

    device_id: str
    day: int
    minutes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A minute that differs between source and target."""

    device_id: str
    minute: int
    source: Digest | None
    target: Digest | None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    options = _parser().parse_args(arguments)
    make_files_private()
    log.set_up("move_data")
    try:
        settings = read_settings(options.config, os.environ)
        first, last = _day(options.since, 0), _day(options.until, _END)
        if options.source == options.target:
            raise ConfigurationError(f"--from and --to must differ, both are {options.source}")
        if options.source == "sqlite" and (why := why_no_storage(replace(settings, storage_engine="sqlite"))):
            raise ConfigurationError(why)
        with (
            open_store(replace(settings, storage_engine=options.source), read_only=True) as source,
            open_store(replace(settings, storage_engine=options.target)) as target,
        ):
            return _move(source, target, options.device, first, last)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_FAULT
    except StorageError as error:
        print(f"interrupted, run it again to continue: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ec_server.storage.move_data",
        description="Copy stored data to the other engine and verify it there, minute by minute.",
    )
    parser.add_argument("--from", dest="source", choices=_ENGINES, required=True, help="engine to copy from")
    parser.add_argument("--to", dest="target", choices=_ENGINES, required=True, help="engine to copy to")
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="configuration file, for both engines"
    )
    parser.add_argument(
        "--device", action="append", metavar="ID", help="move only this device; may be repeated"
    )
    parser.add_argument("--since", metavar="YYYYMMDD", help="first day to move")
    parser.add_argument("--until", metavar="YYYYMMDD", help="last day to move")
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
    stored = source.stored_days()
    chosen = devices or sorted({d for d, _ in stored} | {record.device_id for record in source.devices()})
    wanted = [(d, day) for d, day in stored if d in set(chosen)]
    days = [_device_day(source, d, day) for d, day in wanted if first <= day <= last]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("moving", total=sum(len(one.minutes) for one in days))
        rows = sum(move_day(source, target, one, lambda: progress.advance(task)) for one in days)
        task = progress.add_task("comparing", total=len(days))
        different: list[str] = []
        for one in days:
            different += map(_told, compare_day(source, target, one))
            different += replaced_rows_left(source, target, one)
            progress.advance(task)
    move_progress(source, target, chosen, first, last)
    wrong = [*different, *_unknown(source, devices or (), stored), *_damaged(source)]
    outside = len(wanted) - len(days)
    for line in [*wrong, *([f"left out: {outside} days outside --since and --until"] if outside else [])]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{rows} rows moved, {len(days)} device days compared, {len(different)} minutes differ")
    return 1 if wrong else 0


def _unknown(source: Store, asked_for: Sequence[str], stored: Sequence[tuple[str, int]]) -> list[str]:
    with_rows = {device_id for device_id, _ in stored}
    return [
        f"left out: device {device_id}: the source has no data of it"
        for device_id in asked_for
        if device_id not in with_rows and source.device(device_id) is None
    ]


def _damaged(source: Store) -> list[str]:
    return [f"left out because of damage: {what}" for what in source.health().damage]


def _device_day(source: Store, device_id: str, day: int) -> DeviceDay:
    records = source.minutes(device_id, day, day + DAY_S)
    with_rows = source.row_counts(device_id, day, day + DAY_S)
    minutes = {record.minute for record in records} | {minute for minute, _, _ in with_rows}
    return DeviceDay(device_id, day, tuple(sorted(minutes)))


def move_day(source: Store, target: Store, one: DeviceDay, on_minute: Callable[[], object]) -> int:
    """Copy the rows of one day of a device that the target lacks; returns how many."""
    target.keep_replaced(source.replaced_rows(one.device_id, one.day, one.day + DAY_S))
    moved = 0
    pending: list[StoredRow] = []
    for minute in one.minutes:
        pending += _lacking(source, target, one.device_id, minute)
        if len(pending) >= _ROWS_A_WRITE:
            moved += _write(target, pending)
        on_minute()
    return moved + _write(target, pending)


def _lacking(source: Store, target: Store, device_id: str, minute: int) -> list[StoredRow]:
    found = source.rows(device_id, minute, minute + MINUTE_S)
    rows = [row for row in found if md5_hex(row.batch.values) == row.batch.checksum]
    if not rows:
        return []
    there = {row.batch.key: row.batch.checksum for row in target.rows(device_id, minute, minute + MINUTE_S)}
    return [row for row in rows if there.get(row.batch.key) != row.batch.checksum]


def _write(target: Store, pending: list[StoredRow]) -> int:
    """Write the pending rows in several calls, in the order of insertion, and clear the list."""
    count = len(pending)
    for at in range(0, count, _ROWS_A_WRITE):
        target.replay(pending[at : at + _ROWS_A_WRITE])
    pending.clear()
    return count


def compare_day(source: Store, target: Store, one: DeviceDay) -> list[Difference]:
    """Compare one day of a device, computed from the rows; copy the verdicts of minutes that are equal."""
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


def replaced_rows_left(source: Store, target: Store, one: DeviceDay) -> list[str]:
    """A line for each minute whose replaced rows are not all in the target."""
    span = (one.device_id, one.day, one.day + DAY_S)
    there = Counter((kept.row.batch, kept.reason) for kept in target.replaced_rows(*span))
    here = Counter((kept.row.batch, kept.reason) for kept in source.replaced_rows(*span))
    lacking = Counter(minute_of(batch.second) for batch, _ in (here - there).elements())
    return [
        f"{one.device_id} {minute_text(minute)}: {count} replaced rows are not in the target"
        for minute, count in sorted(lacking.items())
    ]


def _move_records(
    target: Store,
    device_id: str,
    records: Sequence[MinuteRecord],
    ours: dict[int, Digest],
    theirs: dict[int, Digest],
) -> None:
    """Copy verdicts that the target lacks, grouped by the time of their comparison."""
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


def move_progress(source: Store, target: Store, devices: Sequence[str], first: int, last: int) -> None:
    """Copy when each device was seen, where its coverage begins, and which minutes are known to be empty."""
    for device_id in devices:
        record = source.device(device_id)
        if record is None:
            continue
        target.note_devices({device_id: record.first_seen_us})
        target.note_devices({device_id: record.last_seen_us})
        empty = source.ranges_in(device_id, first, min(last + DAY_S, _END), [MinuteState.EMPTY])
        for start, stop in empty:
            verdicts = [Verdict(m, MinuteState.EMPTY, None) for m in range(start, stop, MINUTE_S)]
            target.record_verdicts(device_id, verdicts, record.last_seen_us)
        there = target.device(device_id)
        begins = [r.covered_from for r in (record, there) if r is not None and r.covered_from is not None]
        if begins:
            target.note_coverage(device_id, min(begins))
        if record.reopened:
            known = there.reopened if there is not None else ()
            target.note_reopened(device_id, ranges.union([*record.reopened, *known]))


def _told(difference: Difference) -> str:
    sides = [
        f"{d.count} samples, {d.md5}" if d else "nothing" for d in (difference.source, difference.target)
    ]
    return f"{difference.device_id} {minute_text(difference.minute)}: source {sides[0]}; target {sides[1]}"


if __name__ == "__main__":
    sys.exit(run(main))
