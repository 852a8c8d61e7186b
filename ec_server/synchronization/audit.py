"""Audits: requests to compare a time range again, from the stored rows, and their reports, both as files.

The asking process writes ``<run>/audits/<name>.request.json``. When the device is connected, the sync
server compares, writes ``<name>.report.json`` atomically, and removes the request. So a request survives a
restart of the server, and the two processes share only files.

    request    {"device": ID, "from": MINUTE, "to": MINUTE}
    report     {"device": ID, "from": MINUTE, "to": MINUTE, "minutes": [...]}
    a minute   {"minute", "state", "stored_samples", "device_samples", "seconds_repaired",
                "samples_repaired", "conflicts", "extra", "fault": TEXT or null}

``state`` is ``proven``, ``unconfirmable`` (the device has nothing of it, something is stored),
``empty`` (neither has anything), ``unresolved``, ``changed`` (written to meanwhile), or ``open`` (not
closed yet, or not finished by the device).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ec_server.synchronization.minute_repair import MinuteReport
from utilities.model import Digest, MinuteState
from utilities.private_files import make_folder, write_json
from utilities.utc import DAY_S, MINUTE_S, minute_text, parse_minute

FOLDER = "audits"
MAX_MINUTES = 31 * DAY_S // MINUTE_S
"""The longest range of one audit."""
_KEEP_REPORTS_S = DAY_S
_GOOD = (MinuteState.PROVEN.value, MinuteState.EMPTY.value)
_COUNTS = ("stored_samples", "device_samples", "samples_repaired", "conflicts", "extra")
_REQUEST, _REPORT = ".request.json", ".report.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Compare ``[start, stop)`` of one device; ``name`` is that of the files."""

    name: str
    device_id: str
    start: int
    stop: int


class AuditDesk:
    """The server's side: finds requests, notifies the connections that can answer them, writes reports."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / FOLDER
        self._requests: dict[str, AuditRequest] = {}
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def look(self) -> None:
        """Find new requests, and forget those that were withdrawn."""
        try:
            names = {p.name.removesuffix(_REQUEST): p for p in self._folder.glob(f"*{_REQUEST}")}
        except OSError:
            return
        for name in self._requests.keys() - names.keys():
            del self._requests[name]
        for name in names.keys() - self._requests.keys():
            request = _read_request(name, names[name])
            if request is not None:
                self._requests[name] = request
                self.bell(request.device_id).set()
        self._forget_old_reports()

    def pending(self, device_id: str) -> list[AuditRequest]:
        """The device's requests that are still open."""
        return [request for request in self._requests.values() if request.device_id == device_id]

    def bell(self, device_id: str) -> asyncio.Event:
        """The event that signals a new request for the device; it exists as long as it is referenced."""
        bell = self._bells.get(device_id)
        if bell is None:
            bell = self._bells[device_id] = asyncio.Event()
        return bell

    def done(self, request: AuditRequest, reports: Sequence[MinuteReport]) -> None:
        """Write the report and close the request."""
        found = {report.minute: report for report in reports}
        every = range(request.start, request.stop, MINUTE_S)
        self._close(request, [_line(minute, found.get(minute)) for minute in every])

    def _close(self, request: AuditRequest, lines: list[dict[str, Any]]) -> None:
        report = {
            "device": request.device_id,
            "from": minute_text(request.start),
            "to": minute_text(request.stop),
            "minutes": lines,
        }
        self._requests.pop(request.name, None)
        try:
            write_json(self._folder / f"{request.name}{_REPORT}", report)
            (self._folder / f"{request.name}{_REQUEST}").unlink(missing_ok=True)
        except OSError as failure:
            _log.error("cannot write the audit's report: %s", failure)

    def _forget_old_reports(self) -> None:
        for path in self._folder.glob(f"*{_REPORT}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEEP_REPORTS_S:
                    path.unlink()


def ask(run_folder: Path, device_id: str, start: int, stop: int, timeout_s: float) -> dict[str, Any] | None:
    """The asker's end: place a request, wait for its report, take both away; None after ``timeout_s``.

    Raises OSError where the request cannot be placed.
    """
    folder, name = run_folder / FOLDER, secrets.token_hex(8)
    make_folder(folder)
    request, report = folder / f"{name}{_REQUEST}", folder / f"{name}{_REPORT}"
    write_json(request, {"device": device_id, "from": minute_text(start), "to": minute_text(stop)})
    until = time.monotonic() + timeout_s
    try:
        while not report.exists():
            if time.monotonic() > until:
                return None
            time.sleep(0.1)
        found: dict[str, Any] = json.loads(report.read_text("utf-8"))
        return found
    finally:
        for path in (request, report):
            path.unlink(missing_ok=True)


def all_proven(report: dict[str, Any]) -> bool:
    """Whether every minute in the report is proven or empty."""
    return all(m["state"] in _GOOD for m in report["minutes"])


def lines_for_people(report: dict[str, Any]) -> Iterator[str]:
    """The report as a table, one line per minute, then a summary."""
    heads = ("stored", "device", "repaired", "conflicts", "extra")
    yield f"{'minute':<13}{'state':<14}" + "".join(f"{head:>11}" for head in heads)
    for m in report["minutes"]:
        counts = [m[key] for key in _COUNTS]
        yield f"{m['minute']:<13}{m['state']:<14}" + "".join(f"{count:>11}" for count in counts)
        if m["fault"]:
            yield f"{'':<13}{m['fault']}"
    yield _sum(report["minutes"])


def _sum(minutes: Iterable[dict[str, Any]]) -> str:
    states: dict[str, int] = {}
    for m in minutes:
        states[m["state"]] = states.get(m["state"], 0) + 1
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "no minutes"


def _line(minute: int, report: MinuteReport | None) -> dict[str, Any]:
    return {
        "minute": minute_text(minute),
        "state": _state(report),
        "stored_samples": _count(report.here if report else None),
        "device_samples": _count(report.there if report else None),
        "seconds_repaired": report.repaired if report else 0,
        "samples_repaired": report.samples if report else 0,
        "conflicts": report.conflicts if report else 0,
        "extra": report.extra if report else 0,
        "fault": f"{report.fault.code}: {report.fault.text}" if report and report.fault else None,
    }


def _state(report: MinuteReport | None) -> str:
    if report is None:
        return "open"
    if report.state is None:
        return "changed"
    return report.state.value


def _count(digest: Digest | None) -> int:
    return digest.count if digest else 0


def _read_request(name: str, path: Path) -> AuditRequest | None:
    try:
        values = json.loads(path.read_text("utf-8"))
        start, stop = parse_minute(values["from"]), parse_minute(values["to"])
        request = AuditRequest(name, str(values["device"]), start, stop)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is not a request for an audit: %s", path, error)
        path.unlink(missing_ok=True)
        return None
    return request if 0 <= stop - start <= MAX_MINUTES * MINUTE_S else None
