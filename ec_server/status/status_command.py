"""``ec_server_main.py --status`` and ``--forget``: queries the running server, and forgets a device."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any

from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER
from ec_server.status.forgotten_devices import forget
from ec_server.status.live_devices import FRESH_S, read_live
from ec_server.storage.engines import open_store, why_no_storage
from utilities.addresses import from_here, host_port
from utilities.errors import EcServerError

WELL, NEEDS_ATTENTION, NO_ANSWER = 0, 1, 2
_PATIENCE_S = 10.0
_WELL_STATES = frozenset(("proven", "waiting"))
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks no proxy of the environment: that would see the token, and another machine's loopback."""


class NoAnswerError(EcServerError):
    """No server answers at the configured address."""


def report_status(settings: Settings, *, as_json: bool) -> tuple[int, str]:
    """Exit code (0: well, 1: needs attention, 2: no answer) and what to print."""
    try:
        overview = _ask(settings, "/api/overview", dict)
        devices = _ask(settings, "/api/devices", list)
    except NoAnswerError as error:
        return NO_ANSWER, json.dumps({"error": str(error)}) if as_json else str(error)
    code = WELL if _is_well(overview, devices) else NEEDS_ATTENTION
    if as_json:
        return code, json.dumps({"server": overview, "devices": devices}, indent=1)
    return code, "\n".join([_server_line(overview), *map(_device_line, devices)])


def forget_device(settings: Settings, device_id: str) -> tuple[int, str]:
    """Exit code (0: forgotten, 1: unknown or sending now, 2: not possible) and what to print."""
    run_folder, now = settings.storage_path / RUN_FOLDER, time.time()
    try:
        if why := why_no_storage(settings):
            return NO_ANSWER, why
        with open_store(settings, read_only=True) as store:
            record = store.device(device_id)
        live = read_live(run_folder, now).get(device_id)
        if record is None and live is None:
            return NEEDS_ATTENTION, f"device {device_id or repr(device_id)} is unknown"
        if live is not None and now - live.last_seen < FRESH_S:
            return NEEDS_ATTENTION, f"{device_id} sends at the moment: it would be known again at once"
        last_seen_us = record.last_seen_us if record else 0
        forget(run_folder, device_id, max(int(now * 1e6), last_seen_us))
    except (EcServerError, OSError) as error:
        return NO_ANSWER, str(error)
    return WELL, f"{device_id} is forgotten until it sends again; its data stays"


def _ask(settings: Settings, path: str, kind: type) -> Any:
    """The answer, of this kind; an empty one where the database does not answer."""
    if settings.status_port == 0:
        raise NoAnswerError("status.port is 0: the server has no status port to ask")
    host = from_here(settings.status_ip)
    place = host_port(host, settings.status_port)
    request = urllib.request.Request(f"http://{place}{path}")
    if settings.status_token:
        # http.client writes Latin-1: so the bytes on the wire are UTF-8, as the server takes them.
        token = settings.status_token.encode("utf-8").decode("latin-1")
        request.add_header("authorization", f"Bearer {token}")
    try:
        with _DIRECT.open(request, timeout=_PATIENCE_S) as answer:
            return _of_kind(json.loads(answer.read()), kind)
    except urllib.error.HTTPError as error:
        if error.code == 503 and kind is list:  # the database does not answer; the overview says so
            return []
        raise NoAnswerError(f"{place} answers {error.code}: {error.reason}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise NoAnswerError(
            f"no server answers on {host} port {settings.status_port} (status.ip, status.port): {error}"
        ) from error


def _of_kind(answer: Any, kind: type) -> Any:
    """What this server answers; ValueError for another program's answer."""
    if not isinstance(answer, kind) or (isinstance(answer, dict) and "verdict" not in answer):
        raise ValueError("what answers there is another program")
    return answer


def _is_well(overview: Mapping[str, Any], devices: Sequence[Mapping[str, Any]]) -> bool:
    if overview["health"]["status"] != "ok" or overview["verdict"] is None:
        return False
    return all(device["state"] in _WELL_STATES for device in devices)


def _server_line(overview: Mapping[str, Any]) -> str:
    verdict, account = overview["verdict"], overview["account"]
    said = verdict["headline"] if verdict else "the database does not answer"
    health = overview["health"]
    reasons = " ".join("; ".join(health["reasons"]).split())  # in one line, whatever an error says
    word = "ok" if health["status"] == "ok" else f"failing: {reasons}"
    return (
        f"server  {word}  {said}  {overview['samples_per_second']:,.0f} samples/s  "
        f"{overview['devices']} devices  queue {account['queued']:,}  spool {account['spooled']:,}"
    )


def _device_line(device: Mapping[str, Any]) -> str:
    through = device["verified_through"] or "never"
    return (
        f"{device['device_id']}  {device['state']}  {device['samples_per_second']:,.0f} samples/s  "
        f"proven through {through}  {device['unresolved_minutes']} unresolved"
    )
