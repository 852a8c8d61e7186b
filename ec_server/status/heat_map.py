"""Completeness as a table of cells: the hours of a month, minutes of a day, seconds of a minute; pure.

A cell has the state of its worst minute, so that no problem is hidden.
"""

from __future__ import annotations

import calendar
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ec_server.export.minute_lines import MinuteLine
from utilities import utc
from utilities.model import UNPROVEN, MinuteState

MEANINGS: Mapping[str, str] = {
    MinuteState.UNRESOLVED.value: "still different from the device’s own record after the repair",
    "missing": "nothing stored",
    "stored": "stored, not proven yet",
    MinuteState.UNCONFIRMABLE.value: "stored, and the device cannot confirm it",
    MinuteState.PROVEN.value: "every sample that the device has is stored",
    MinuteState.EMPTY.value: "compared: neither side has anything",
    "before": "before the device was first heard",
    "future": "not over yet",
}
"""What each state of a cell means, worst first."""

STATES = tuple(MEANINGS)


_TITLES = {"month": "%B %Y", "day": "%Y-%m-%d", "minute": "%Y-%m-%d %H:%M", "second": "%Y-%m-%d %H:%M:%S"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: ``key`` is the view that it zooms to (empty for none), ``label`` describes it."""

    state: str
    label: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row with its heading; ``key`` is the view that the heading zooms to."""

    heading: str
    key: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What a device's page shows: a level, and the span ``[start, stop)`` in epoch seconds."""

    level: str
    start: int
    stop: int
    key: str

    @property
    def title(self) -> str:
        """The span in words."""
        form = {
            "month": "%B %Y",
            "day": "%Y-%m-%d",
            "minute": "%Y-%m-%d %H:%M",
            "second": "%Y-%m-%d %H:%M:%S",
        }
        return time.strftime(form[self.level], time.gmtime(self.start)) + " UTC"


def view_of(key: str, default_s: int) -> View:
    """The view that a key names: ``YYYYMM``, ``YYYYMMDD``, ``YYYYMMDDHHMM`` or ``YYYYMMDDHHMMSS``.

    For any other key, the day of epoch second ``default_s``.
    """
    makers: Mapping[int, Callable[[str], View]] = {6: _month, 8: _day, 12: _minute, 14: _second}
    try:
        return makers[len(key)](key)
    except (KeyError, ValueError):
        return _day(utc.ec_date(default_s))


def _month(key: str) -> View:
    start = utc.parse_second(f"{key}01000000")
    days = calendar.monthrange(int(key[:4]), int(key[4:]))[1]
    return View("month", start, start + days * utc.DAY_S, key)


def _day(key: str) -> View:
    start = utc.parse_second(f"{key}000000")
    return View("day", start, start + utc.DAY_S, key)


def _minute(key: str) -> View:
    start = utc.parse_minute(key)
    return View("minute", start, start + utc.MINUTE_S, key)


def _second(key: str) -> View:
    start = utc.parse_second(key)
    return View("second", start, start + 1, key)


def minute_state(line: MinuteLine, existed_from: int, now: float) -> str:
    """One of STATES for a minute."""
    if line.state != UNPROVEN:
        return line.state if line.state in STATES else "stored"
    if line.rows:
        return "stored"
    if line.minute + utc.MINUTE_S <= existed_from:
        return "before"
    return "future" if line.minute + utc.MINUTE_S > now else "missing"


def month_rows(view: View, lines: Iterable[MinuteLine], existed_from: int, now: float) -> list[Row]:
    """One row per day, one cell per hour."""
    hours: dict[int, Counter[str]] = {}
    for line in lines:
        hour = line.minute - line.minute % utc.HOUR_S
        hours.setdefault(hour, Counter())[minute_state(line, existed_from, now)] += 1
    rows = []
    for day in range(view.start, view.stop, utc.DAY_S):
        key = utc.ec_date(day)
        cells = tuple(
            _summed(hours.get(hour, Counter()), time.strftime("%Y-%m-%d %H:00", time.gmtime(hour)), key)
            for hour in range(day, day + utc.DAY_S, utc.HOUR_S)
        )
        rows.append(Row(key[6:], key, cells))
    return rows


def day_rows(view: View, lines: Iterable[MinuteLine], existed_from: int, now: float) -> list[Row]:
    """One row per hour, one cell per minute."""
    cells: dict[int, list[Cell]] = {}
    for line in lines:
        state = minute_state(line, existed_from, now)
        label = f"{utc.iso(line.minute * 10**6)[11:16]} {state}, {line.samples:,} samples"
        hour = line.minute - line.minute % utc.HOUR_S
        cells.setdefault(hour, []).append(Cell(state, label, utc.minute_text(line.minute)))
    return [
        Row(time.strftime("%H", time.gmtime(hour)), "", tuple(cells.get(hour, ())))
        for hour in range(view.start, view.stop, utc.HOUR_S)
    ]


def minute_rows(view: View, counts: Mapping[int, int], state: str) -> list[Row]:
    """Six rows of ten seconds; a second with samples has the minute's ``state``."""
    rows = []
    for start in range(view.start, view.stop, 10):
        cells = tuple(
            Cell(
                (state if state != "missing" else "stored") if counts.get(second) else _absent(state),
                f"{utc.iso(second * 10**6)[11:19]} {counts.get(second, 0):,} samples",
                utc.second_text(second) if counts.get(second) else "",
            )
            for second in range(start, start + 10)
        )
        rows.append(Row(time.strftime(":%S", time.gmtime(start)), "", cells))
    return rows


def _absent(state: str) -> str:
    """The state of a second without samples in a minute of ``state``."""
    return state if state in ("empty", "before", "future") else "missing"


def _summed(states: Counter[str], when: str, key: str) -> Cell:
    worst = next((state for state in STATES if states[state]), "future")
    parts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return Cell(worst, f"{when} {parts or 'nothing'}", key)
