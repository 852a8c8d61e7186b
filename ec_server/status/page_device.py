"""The page of a device: completeness from a month down to a second, power, waveform, rounds.

Everything except the charts is HTML from here, so that it is readable without JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec_server.export.minute_lines import MOST_COUNTED, minute_lines
from ec_server.export.spectrum import MAINS_HZ, Waveform, waveform_of
from ec_server.export.stored_seconds import Span, arrays_of
from ec_server.status.heat_map import (
    MEANINGS,
    Row,
    View,
    day_rows,
    minute_rows,
    minute_state,
    month_rows,
    view_of,
)
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.templates import render
from ec_server.status.verdict import standing
from ec_server.storage.contract import Store
from utilities import utc

_HEADS: Mapping[str, Sequence[str]] = {
    "month": [f"{hour:02d}" for hour in range(24)],
    "day": [f"{minute:02d}" if minute % 5 == 0 else "" for minute in range(60)],
    "minute": [f"+{second}" for second in range(10)],
}
_CORNERS = {"month": "Day", "day": "Hour", "minute": "Second"}


@dataclass(frozen=True, slots=True)
class Picture:
    """What is read from the database for one view."""

    rows: tuple[Row, ...]
    minute: str
    """A description of the minute; empty for longer views."""
    waveform: Waveform | None
    existed_from: int
    """The first minute in which the device is known, from its messages or its stored data."""


def view_for(key: str, device: DeviceStatus) -> View:
    """The requested view; if it is not valid, the day on which the device last sent."""
    return view_of(key, device.last_seen_s)


def take_picture(store: Store, device: DeviceStatus, view: View, now: float) -> Picture:
    """Read what the view shows. Raises StorageError."""
    record = device.record
    existed_from = utc.minute_of(record.first_seen_us // 1_000_000)
    earliest = store.earliest_minute(record.device_id)
    existed_from = min(existed_from, earliest) if earliest is not None else existed_from
    span = Span(record.device_id, view.start, view.stop)
    if view.level in ("month", "day"):
        shape = month_rows if view.level == "month" else day_rows
        rows = shape(view, minute_lines(store, span), existed_from, now)
        return Picture(tuple(rows), "", None, existed_from)
    minute = utc.minute_of(view.start)
    (line,) = minute_lines(store, Span(record.device_id, minute, minute + utc.MINUTE_S), MOST_COUNTED)
    said = (
        f"This minute is {line.state}: {line.samples:,} samples in {line.rows:,} rows, "
        f"{line.conflicts:,} conflicts, {line.extra:,} extra; last compared "
        f"{'never' if line.checked_us is None else utc.iso(line.checked_us)[:19].replace('T', ' ') + ' UTC'}."
    )
    if view.level == "second":
        text = store.second_text(record.device_id, view.start)
        return Picture((), said, waveform_of(*arrays_of(text)) if text else None, existed_from)
    digests = store.second_digests(record.device_id, minute)
    counts = {second: digest.count for second, digest in digests}
    rows = minute_rows(view, counts, minute_state(line, existed_from, now))
    return Picture(tuple(rows), said, None, existed_from)


def render_device(
    device: DeviceStatus,
    name: str,
    view: View,
    picture: Picture,
    rounds: Sequence[Mapping[str, object]],
    *,
    now: float,
    allowed_s: float,
    serve_samples: bool,
) -> str:
    """The whole page; without ``serve_samples`` it shows neither power nor waveforms."""
    device_id = device.record.device_id
    wave = picture.waveform if serve_samples else None
    start, stop = utc.second_text(view.start), utc.second_text(view.stop)
    return render(
        "device.html",
        title=f"{device_id} · Energy Consumption Server",
        clock=f"{utc.iso(int(now) * 10**6)[:19].replace('T', ' ')} UTC",
        device_id=device_id,
        name=name,
        figures=_figures(device, standing(device, now, allowed_s).value),
        view=view,
        rows=picture.rows,
        minute=picture.minute,
        neighbours=_neighbours(view),
        heads=_HEADS.get(view.level, ()),
        corner=_CORNERS.get(view.level, ""),
        meanings=MEANINGS,
        at=_links(device_id),
        waveform=_wave_figures(wave),
        harmonics=wave.harmonics if wave else (),
        mains=MAINS_HZ,
        charts=serve_samples,
        refused="Power and waveforms are not shown beyond loopback without status.token.",
        start_text=start,
        chart_start=utc.second_text(max(view.start, min(picture.existed_from, view.stop - 1))),
        chart_stop=utc.second_text(min(view.stop, max(int(now) + 1, view.start + 1))),
        stop_text=stop,
        rounds=rounds,
        export_command=f"python -m ec_server.export {device_id} --from {start} --to {stop} "
        "--format parquet -o samples.parquet",
    )


def _links(device_id: str) -> Callable[[str], str]:
    return lambda key: f"/devices/{device_id}?at={key}"


def _figures(device: DeviceStatus, state: str) -> list[dict[str, str]]:
    record = device.record
    through = record.verified_through
    figures = (
        ("state", state),
        ("samples a second, now", f"{device.samples_per_second:,.0f}"),
        ("last heard", _text(record.last_seen_us)),
        ("proven through", "not compared yet" if through is None else _text(through * 10**6)),
        ("minutes unresolved", f"{record.unresolved_minutes:,}"),
        ("minutes unconfirmable", f"{record.unconfirmable_minutes:,}"),
        ("minutes empty on both sides", f"{record.empty_minutes:,}"),
        ("conflicts", f"{record.conflicts:,}"),
        ("extra samples", f"{record.extra:,}"),
    )
    return [{"name": name, "value": value} for name, value in figures]


def _text(moment_us: int) -> str:
    return f"{utc.iso(moment_us)[:16].replace('T', ' ')}"


def _wave_figures(wave: Waveform | None) -> list[tuple[str, str]]:
    if wave is None:
        return []
    return [
        ("samples", f"{wave.samples:,}"),
        ("RMS", f"{wave.rms:,.2f} W"),
        ("mean", f"{wave.mean:,.2f} W"),
        ("lowest", f"{wave.lowest:,.2f} W"),
        ("highest", f"{wave.highest:,.2f} W"),
    ]


def _neighbours(view: View) -> list[tuple[str, Any]]:
    """Links from here: up, earlier, later."""
    key_of: Mapping[str, Callable[[int], str]] = {
        "month": lambda second: utc.ec_date(second)[:6],
        "day": utc.ec_date,
        "minute": utc.minute_text,
        "second": utc.second_text,
    }
    levels = list(key_of)
    above = [
        (f"{level.capitalize()} {key_of[level](view.start)}", key_of[level](view.start))
        for level in levels[: levels.index(view.level) + 1]
    ]
    here = key_of[view.level]
    return [*above, (f"Earlier {view.level}", here(view.start - 1)), (f"Later {view.level}", here(view.stop))]
