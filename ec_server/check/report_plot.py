"""Draws the report on an hour. The only module that imports matplotlib.

Complete, partial and empty minutes differ in colour (the Okabe-Ito palette, for every kind of colour vision),
pattern and marker, so that the picture is readable in greyscale, too.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from ec_server.check.hour_report import HourReport, MinuteLine, Waveform
from utilities import utc

_COMPLETE, _PARTIAL, _EMPTY, _LINE = "#0072B2", "#E69F00", "#D55E00", "#000000"
_GAP = "#FBEBCB"
_GAP_FACTOR = 2.5
"""There is a gap between samples that are further apart than this many typical steps."""


def write_plot(report: HourReport, path: Path) -> None:
    """Write the picture; the suffix of ``path`` determines its format.

    Raises OSError if the file cannot be written, ValueError for an unknown format.
    """
    rows = 2 if report.waveform else 1
    figure = Figure(figsize=(11, 3.8 * rows), dpi=110, layout="constrained")
    _hour(figure.add_subplot(rows, 1, 1), report)
    if report.waveform:
        _wave(figure.add_subplot(rows, 1, 2), report.waveform)
    figure.savefig(path)


def _hour(axes: Any, report: HourReport) -> None:
    expected = report.rate * utc.MINUTE_S
    groups = _groups(report)
    for name, colour, hatch in (("complete", _COMPLETE, ""), ("partial", _PARTIAL, "///")):
        lines = groups[name]
        axes.bar(
            [_index(line, report) for line in lines],
            [line.samples for line in lines],
            width=0.85,
            color=colour,
            edgecolor="white",
            linewidth=0,
            hatch=hatch,
            label=f"{name}: {len(lines)}",
        )
    empty = [_index(line, report) for line in groups["empty"]]
    label = f"empty: {len(empty)}"
    axes.plot(empty, [0.02 * expected] * len(empty), "x", color=_EMPTY, ms=7, mew=2, label=label)
    axes.axhline(expected, color=_LINE, lw=1, ls="--", label=f"expected: {expected:,}")
    start = utc.iso(report.hour * 1_000_000)
    axes.set_title(f"{report.device_id}, {start[:10]}, hour {start[11:13]} UTC", loc="left", pad=26)
    axes.set_xlabel("minute")
    axes.set_ylabel("samples")
    axes.set_xlim(-0.7, 59.7)
    axes.set_ylim(0, 1.08 * max([expected, *(line.samples for line in report.minutes)]))
    axes.set_xticks(range(0, 60, 5))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _legend(axes)
    _bare(axes)


def _groups(report: HourReport) -> dict[str, list[MinuteLine]]:
    groups: dict[str, list[MinuteLine]] = {"complete": [], "partial": [], "empty": []}
    for line in report.minutes:
        kind = "empty" if not line.samples else "partial" if line.samples < line.expected else "complete"
        groups[kind].append(line)
    return groups


def _index(line: MinuteLine, report: HourReport) -> int:
    return (line.minute - report.hour) // utc.MINUTE_S


def _wave(axes: Any, wave: Waveform) -> None:
    gaps = find_gaps(wave)
    times: list[float] = []
    values: list[float] = []
    after_gap = {stop for _, stop in gaps}
    for microsecond, value in zip(wave.microseconds, wave.values):
        if microsecond in after_gap:
            times.append(microsecond / 1000)
            values.append(float("nan"))
        times.append(microsecond / 1000)
        values.append(value)
    axes.plot(times, values, color=_COMPLETE, lw=0.8, label=f"samples: {len(wave.values):,}")
    for number, (start, stop) in enumerate(gaps):
        label = f"no samples: {len(gaps)}" if number == 0 else None
        axes.axvspan(start / 1000, stop / 1000, fc=_GAP, ec=_PARTIAL, lw=0, hatch="///", label=label)
    moment = utc.iso(wave.second * 1_000_000)[:19].replace("T", " ")
    axes.set_title(f"second {moment} UTC", loc="left", pad=26)
    axes.set_xlabel("millisecond")
    axes.set_ylabel("value")
    axes.set_xlim(0, 1000)
    _legend(axes)
    _bare(axes)


def find_gaps(wave: Waveform) -> list[tuple[int, int]]:
    """Where samples are missing: ``(last microsecond before, first after)``, also at the second's ends."""
    inside = list(zip(wave.microseconds, wave.microseconds[1:]))
    if not inside:
        return [(0, 1_000_000)]
    limit = _GAP_FACTOR * median(b - a for a, b in inside)
    edges = [(0, wave.microseconds[0]), *inside, (wave.microseconds[-1], 1_000_000)]
    return [(a, b) for a, b in edges if b - a > limit]


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.995), ncols=4, frameon=False, borderpad=0.2)
