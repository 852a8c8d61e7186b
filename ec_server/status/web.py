"""The starlette application of the status port, over an ``Observer``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ec_server.status import metrics
from ec_server.status.access import with_token
from ec_server.status.data_urls import data_routes
from ec_server.status.health import Health, healthy, ready, worker_fault
from ec_server.status.history import History
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.page_urls import page_routes
from ec_server.status.site import Site
from ec_server.status.snapshot import Observer, Snapshot
from ec_server.status.streamed_answer import StoredData
from ec_server.status.verdict import judge, standing
from utilities import utc

# Nothing is loaded from other servers, no inline code runs, no other page can embed this one.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def create_app(observer: Observer, data: StoredData, site: Site, history: History) -> ASGIApp:
    """The application, protected by the token if there is one."""
    handlers: dict[Any, Any] = {HTTPException: _refusal, Exception: _failure}
    app = Starlette(routes=routes(observer, data, site, history), exception_handlers=handlers)
    return _with_headers(with_token(app, site.token))


def routes(observer: Observer, data: StoredData, site: Site, history: History) -> list[Route]:
    """Every URL of the status port."""
    allowed_s = site.allowed_s

    async def healthz(_request: Request) -> Response:
        now = await observer.snapshot()
        return _health_answer(healthy(now.workers, now.database))

    async def readyz(_request: Request) -> Response:
        now = await observer.snapshot()
        return _health_answer(ready(now.workers, now.database))

    async def figures(_request: Request) -> Response:
        body = metrics.exposition(
            await observer.snapshot(),
            site.version,
            site.allowed_s,
            site.max_device_metrics,
            site.queue_capacity,
        )
        return Response(body, headers={"content-type": metrics.CONTENT_TYPE})

    async def devices(_request: Request) -> Response:
        now = await observer.snapshot()
        if now.database.error:
            return JSONResponse({"error": now.database.error}, 503)
        return JSONResponse([device_object(device, now.now, site) for device in now.devices])

    async def overview(_request: Request) -> Response:
        return JSONResponse(overview_object(await observer.snapshot(), allowed_s))

    return [
        *page_routes(observer, data, site, history),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", figures),
        Route("/api/devices", devices),
        *data_routes(data, serve_samples=site.serve_samples),
        Route("/api/overview", overview),
    ]


def device_object(device: DeviceStatus, now: float, site: Site) -> dict[str, object]:
    """The object of a device in ``/api/devices`` (docs/status.md), with times as ISO-8601 in UTC."""
    record = device.record
    through = record.verified_through
    return {
        "device_id": record.device_id,
        "name": site.names.get(record.device_id, ""),
        "state": standing(device, now, site.allowed_s).value,
        "first_seen": utc.iso(record.first_seen_us),
        "last_seen": utc.iso(record.last_seen_us),
        "verified_through": None if through is None else utc.minute_text(through),
        "unresolved_minutes": record.unresolved_minutes,
        "samples_per_second": round(device.samples_per_second, 1),
        "unconfirmable_minutes": record.unconfirmable_minutes,
        "empty_minutes": record.empty_minutes,
        "conflicts": record.conflicts,
        "extra": record.extra,
    }


def overview_object(now: Snapshot, allowed_s: float) -> dict[str, object]:
    """The overview for programs: verdict, account, workers, storage."""
    verdict = judge(now.devices, now.now, allowed_s)
    health = healthy(now.workers, now.database)
    storage = now.database.health
    return {
        "time": utc.iso(int(now.now * 1_000_000)),
        "verdict": None
        if now.database.error
        else {
            "tone": verdict.tone.value,
            "headline": verdict.headline,
            "explanation": verdict.explanation,
        },
        "health": _health_object(health),
        "account": asdict(now.account()),
        "samples_per_second": round(sum(d.samples_per_second for d in now.devices), 1),
        "samples_stored": now.total("samples_stored"),
        "devices": len(now.devices),
        "storage_free_bytes": storage.free_bytes if storage else None,
        "workers": [
            {"name": worker.name, "state": worker.state, "fault": worker_fault(worker), "pid": worker.pid}
            for worker in now.workers
            if worker.expected
        ],
    }


def _health_object(health: Health) -> dict[str, object]:
    return {"status": "ok" if health.good else "failing", "reasons": list(health.reasons)}


def _health_answer(health: Health) -> Response:
    return JSONResponse(_health_object(health), 200 if health.good else 503)


async def _refusal(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _failure(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "Internal Server Error"}, 500)


def _with_headers(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped
