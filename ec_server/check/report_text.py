"""Writes the report on an hour: a table for terminals, plain text for pipes, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean, mean
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ec_server.check.hour_report import CheckState, HourReport, MinuteLine, SecondLine, Waveform
from utilities import utc

_MINUTE_HEADS = ("minute", "samples", "rows", "expected", "complete", "state")
_SECOND_HEADS = ("second", "samples", "rows", "expected", "complete", "values_checksum")
_LEFT = {"minute", "second", "state", "values_checksum"}

_STATE_STYLES = {
    CheckState.PROVEN: "green",
    CheckState.UNCONFIRMABLE: "cyan",
    CheckState.UNRESOLVED: "bold red",
    CheckState.EMPTY: "dim",
    CheckState.UNPROVEN: "yellow",
    CheckState.NOT_COMPARED: "",
    CheckState.ABSENT: "dim",
}


def write_tables(report: HourReport, stream: TextIO, source: str) -> None:
    """Write tables with colours to a terminal, otherwise plain columns, one line per minute or second.

    In plain columns, fields are separated by two or more spaces, numbers have no separators, times are
    ``YYYYMMDDHHMM`` and ``YYYYMMDDHHMMSS``, an absent field is ``-``.
    """
    (_write_rich if stream.isatty() else _write_plain)(report, stream, source)


def as_json(report: HourReport, source: str) -> str:
    """The report as a JSON object (docs/check-tool.md)."""
    document: dict[str, object] = {
        "device_id": report.device_id,
        "hour": utc.minute_text(report.hour)[:10],
        "storage": source,
        "samples": report.samples,
        "rows": report.rows,
        "expected": report.rate * utc.HOUR_S,
        "minutes": [_minute_object(line) for line in report.minutes],
        "seconds": [_second_object(line) for line in report.seconds],
    }
    if report.waveform:
        document["second"] = _waveform_object(report.waveform)
    return json.dumps(document, indent=1)


def _minute_object(line: MinuteLine) -> dict[str, object]:
    return {
        "minute": utc.minute_text(line.minute),
        "samples": line.samples,
        "rows": line.rows,
        "expected": line.expected,
        "state": line.state.value,
        "values_checksum": line.md5,
        "check_time": None if line.check_time_us is None else utc.iso(line.check_time_us),
        "check_times": line.check_times,
        "extra": line.extra,
        "conflicts": line.conflicts,
    }


def _second_object(line: SecondLine) -> dict[str, object]:
    return {
        "second": utc.second_text(line.second),
        "samples": line.samples,
        "rows": line.rows,
        "expected": line.expected,
        "values_checksum": line.md5,
    }


def _waveform_object(wave: Waveform) -> dict[str, object]:
    values = wave.values
    return {
        "second": utc.second_text(wave.second),
        "samples": len(values),
        "first_us": wave.microseconds[0] if values else None,
        "last_us": wave.microseconds[-1] if values else None,
        "minimum": min(values, default=None),
        "maximum": max(values, default=None),
        "mean": _mean(values) if values else None,
    }


def _write_plain(report: HourReport, stream: TextIO, source: str) -> None:
    def cells(line: MinuteLine | SecondLine) -> tuple[str, ...]:
        share = f"{_share(line):.1f}%"
        numbers = (str(line.samples), str(line.rows), str(line.expected), share)
        if isinstance(line, MinuteLine):
            return (utc.minute_text(line.minute), *numbers, line.state.value)
        return (utc.second_text(line.second), *numbers, line.md5 or "-")

    print(_title(report, source), file=stream)
    for heads, lines in ((_MINUTE_HEADS, report.minutes), (_SECOND_HEADS, report.seconds)):
        rows = [heads, *map(cells, lines)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        print(file=stream)
        for row in rows:
            aligned = (
                text.ljust(width) if head in _LEFT else text.rjust(width)
                for text, width, head in zip(row, widths, heads)
            )
            print("  ".join(aligned).rstrip(), file=stream)
    if report.waveform:
        print(f"\n{_summary(report.waveform)}", file=stream)


def _write_rich(report: HourReport, stream: TextIO, source: str) -> None:
    console = Console(file=stream, highlight=False)
    console.print(_title(report, source), markup=False, end="\n\n")
    minutes = _rich_table(_MINUTE_HEADS)
    for line in report.minutes:
        state = line.state.value.replace("_", " ")
        cells = (_minute_time(line.minute), *_numbers(line), state)
        minutes.add_row(*cells, style=_STATE_STYLES[line.state])
    console.print(minutes, end="\n\n")
    if any(line.rows for line in report.seconds):
        seconds = _rich_table(_SECOND_HEADS)
        for second in report.seconds:
            time_text = utc.iso(second.second * 1_000_000)[11:19]
            seconds.add_row(time_text, *_numbers(second), second.md5 or "-", style=_fill_style(second))
        console.print(seconds)
    else:
        console.print(f"Nothing is stored of {_minute_time(utc.minute_of(report.seconds[0].second))}.")
    if report.waveform:
        console.print(_summary(report.waveform))


def _rich_table(heads: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for head in heads:
        table.add_column(
            head.replace("values_checksum", "digest"),
            justify="left" if head in _LEFT else "right",
            no_wrap=True,
        )
    return table


def _numbers(line: MinuteLine | SecondLine) -> tuple[str, ...]:
    return (f"{line.samples:,}", f"{line.rows:,}", f"{line.expected:,}", f"{_share(line):.1f} %")


def _fill_style(line: SecondLine) -> str:
    if not line.samples:
        return "dim"
    return "" if line.samples >= line.expected else "yellow"


def _share(line: MinuteLine | SecondLine) -> float:
    """Percentage of a complete minute or second, rounded down so that only a complete one shows 100.0."""
    return line.samples * 1000 // line.expected / 10


def _minute_time(minute: int) -> str:
    return utc.iso(minute * 1_000_000)[11:16]


def _title(report: HourReport, source: str) -> str:
    start = utc.iso(report.hour * 1_000_000)
    return (
        f"{report.device_id}, {start[:10]} {start[11:16]} to {_minute_time(report.hour + utc.HOUR_S)} UTC, "
        f"from {source}: {report.samples:,} samples in {report.rows:,} rows, "
        f"of {report.rate * utc.HOUR_S:,} expected"
    )


def _summary(wave: Waveform) -> str:
    second = utc.iso(wave.second * 1_000_000)[:19].replace("T", " ")
    if not wave.values:
        return f"second {second}: nothing stored"
    return (
        f"second {second}: {len(wave.values):,} samples from {wave.microseconds[0]:06d} to "
        f"{wave.microseconds[-1]:06d} µs, values {min(wave.values):g} to {max(wave.values):g}, "
        f"mean {_mean(wave.values):g}"
    )


def _mean(values: Sequence[float]) -> float:
    try:
        return fmean(values)
    except OverflowError:  # their sum is no float; this is slow, and takes it all the same
        return mean(values)
