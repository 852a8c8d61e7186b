"""Writes the page for people: a snapshot and its verdicts to HTML, every text escaped; pure.

The browser asks for the same page again and exchanges the parts marked ``data-live``, so that the
first rendering and every later one come from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from ec_server.status.health import Health, worker_fault
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.snapshot import Account, Snapshot
from ec_server.status.verdict import Standing, count, judge, lag_s, moment_text, span_text, standing
from ec_server.status.worker_view import WorkerView
from utilities import utc

PAGE_FOLDER = Path(__file__).parent / "page"
MOST_ROWS = 500
"""More devices than this are not listed on the page; those that need attention come first then."""

_TEMPLATE = Template((PAGE_FOLDER / "page.html").read_text("utf-8"))
_LIVE_S = 10


def render(snapshot: Snapshot, health: Health, allowed_s: float) -> str:
    """The whole page; ``allowed_s`` is how old a proof may be (verdict.allowed_lag_s)."""
    verdict = judge(snapshot.devices, snapshot.now, allowed_s)
    if snapshot.database.error:
        headline, tone = "The database does not answer", "attention"
        explanation = "What is proven cannot be said until it does."
    else:
        headline, tone, explanation = verdict.headline, verdict.tone.value, verdict.explanation
    return _TEMPLATE.substitute(
        title=escape(f"{headline} · Energy Consumption Server"),
        clock=f"{utc.iso(int(snapshot.now) * 1_000_000)[:19].replace('T', ' ')} UTC",
        headline=f'<span class="tone {tone}">{escape(headline)}</span>',
        explanation=escape(explanation),
        health=_faults(health),
        readouts=_readouts(snapshot),
        devices=_devices(snapshot, allowed_s),
        account=_account(snapshot.account()),
        workers="".join(map(_worker, snapshot.workers)),
    )


def _faults(health: Health) -> str:
    if health.good:
        return ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in health.reasons)
    return f'<div class="faults"><p>The server needs attention</p><ul>{reasons}</ul></div>'


def _readouts(snapshot: Snapshot) -> str:
    devices = snapshot.devices
    sending = sum(device.samples_per_second > 0 for device in devices)
    free = snapshot.database.health.free_bytes if snapshot.database.health else None
    pairs = (
        ("samples a second, now", f"{sum(device.samples_per_second for device in devices):,.0f}"),
        ("devices sending", f"{sending:,} of {len(devices):,}"),
        ("minutes unresolved", f"{sum(device.record.unresolved_minutes for device in devices):,}"),
        ("free for data", "–" if free is None else f"{free / 1e9:,.1f} GB"),
    )
    return _pairs(pairs)


def _devices(snapshot: Snapshot, allowed_s: float) -> str:
    if not snapshot.devices:
        return '<p class="empty">None yet.</p>'
    now = snapshot.now
    devices = list(snapshot.devices)
    if len(devices) > MOST_ROWS:
        devices.sort(key=lambda device: standing(device, now, allowed_s) is Standing.PROVEN)
    known = not snapshot.database.error
    rows = "".join(
        _row(device, now, standing(device, now, allowed_s).value if known else "unknown")
        for device in devices[:MOST_ROWS]
    )
    heads = (
        '<th scope="col">Device</th><th scope="col" class="figure">Samples/s</th>'
        '<th scope="col">Last heard</th><th scope="col">Standing</th>'
        '<th scope="col">Proven through</th><th scope="col">Proven of the last hour</th>'
        '<th scope="col" class="figure">Minutes unresolved</th>'
    )
    more = len(devices) - MOST_ROWS
    note = f'<p class="note">And {count(more, "device")} more in /api/devices.</p>' if more > 0 else ""
    return (
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="devices-title">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _row(device: DeviceStatus, now: float, how: str) -> str:
    """One device; ``how`` is the word of its standing, or ``unknown`` while the database is silent."""
    unresolved = device.record.unresolved_minutes
    silent_s = now - device.last_seen_s
    cells = (
        ("figure", "Samples/s", f"{device.samples_per_second:,.0f}"),
        ("", "Last heard", "now" if silent_s < _LIVE_S else f"{span_text(silent_s)} ago"),
        ("", "Standing", f'<span class="standing {how}">{how}</span>'),
        ("", "Proven through", "unknown" if how == "unknown" else _through(device, now)),
        ("wide", "Proven of the last hour", _strip(device, now, how)),
        (f"figure {'nonzero' if unresolved else ''}".strip(), "Minutes unresolved", f"{unresolved:,}"),
    )
    return (
        f'<tr><th scope="row">{escape(device.record.device_id)}</th>'
        + "".join(f'<td class="{kind}" data-name="{name}">{text}</td>' for kind, name, text in cells)
        + "</tr>"
    )


def _through(device: DeviceStatus, now: float) -> str:
    through = device.record.verified_through
    if through is None:
        return "not compared yet"
    behind = lag_s(device, now)
    aside = f"{span_text(behind)} ago" if behind else "all it sent"
    return f'{moment_text(through, now)} <span class="aside">{aside}</span>'


def _strip(device: DeviceStatus, now: float, how: str) -> str:
    """The last hour as a bar, its proven part filled; the text beside it says the same."""
    unproven_s = lag_s(device, now) if device.record.verified_through is not None else utc.HOUR_S
    filled = 0.0 if how == "unknown" else max(0.0, 1 - unproven_s / utc.HOUR_S)
    return (
        f'<svg class="hour {how}" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{filled * 100:.0f}" height="1"/></svg>'
    )


def _account(account: Account) -> str:
    parts = (
        ("received", account.received),
        ("stored", account.stored),
        ("duplicate", account.duplicate),
        ("rejected", account.rejected),
        ("queued", account.queued),
        ("spooled", account.spooled),
        ("lost", account.lost),
    )
    pairs = _pairs((name, f"{number:,}") for name, number in parts)
    note = (
        "Lost is what a process that died had received and not yet stored; "
        "the synchronization brings it back from the device."
        if account.lost
        else "Every message is in exactly one place."
    )
    return f'<dl class="equation">{pairs}</dl><p class="note">{note}</p>'


def _worker(worker: WorkerView) -> str:
    if not worker.expected:
        return ""
    fault = worker_fault(worker)
    shown = f'<span class="bad">{escape(fault.removeprefix(worker.name).lstrip(": "))}</span>'
    return f"<li><b>{escape(worker.name)}</b> {shown if fault else escape(worker.state)}</li>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{name}</dt><dd>{figure}</dd></div>" for name, figure in pairs)
