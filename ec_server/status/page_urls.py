"""The routes of the pages and of the files that they load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ec_server.account.round_journal import latest_rounds
from ec_server.status.device_list import Query
from ec_server.status.forgotten_devices import read_forgotten
from ec_server.status.health import healthy
from ec_server.status.history import History
from ec_server.status.page_device import render_device, take_picture, view_for
from ec_server.status.page_overview import Overview
from ec_server.status.site import Site
from ec_server.status.snapshot import Observer
from ec_server.status.streamed_answer import StoredData
from ec_server.status.templates import PAGE_FOLDER, render
from utilities.errors import EcServerError

MOST_ROUNDS = 20
_FILES = {"page.css": "text/css", "overview.js": "text/javascript", "device.js": "text/javascript"}
# The charting library sets inline styles; scripts are still limited to files from here.
_CHARTS_POLICY = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}
_LONG = {"cache-control": "private, max-age=86400"}

Endpoint = Callable[[Request], Awaitable[Response]]


def page_routes(observer: Observer, data: StoredData, site: Site, history: History) -> list[Route]:
    """The routes; ``history`` has the last hour of this process."""

    async def overview_of(request: Request) -> Overview:
        now = await observer.snapshot()
        return Overview(
            now,
            healthy(now.workers, now.database),
            history,
            allowed_s=site.allowed_s,
            names=site.names,
            query=Query.of(request.query_params),
            first_meter=site.first_meter,
        )

    async def overview(request: Request) -> Response:
        return HTMLResponse((await overview_of(request)).whole())

    async def changes(request: Request) -> Response:
        have = frozenset(request.query_params.get("have", "").split("."))
        return JSONResponse((await overview_of(request)).changes(have))

    async def device(request: Request) -> Response:
        now = await observer.snapshot()
        device_id = request.path_params["device"]
        found = next((one for one in now.devices if one.record.device_id == device_id), None)
        if found is None:
            text = now.database.error or _why_not_listed(site, device_id)
            return _message("Not here", text, 503 if now.database.error else 404)
        view = view_for(request.query_params.get("at", ""), found)

        def read() -> Any:
            with data.lent() as store:
                picture = take_picture(store, found, view, now.now)
            return picture, latest_rounds(site.run_folder, device_id, MOST_ROUNDS)

        try:
            picture, rounds = await asyncio.to_thread(read)
        except EcServerError as error:
            return _message("The database does not answer", f"{error}.", 503)
        page = render_device(
            found,
            site.names.get(device_id, ""),
            view,
            picture,
            rounds,
            now=now.now,
            allowed_s=site.allowed_s,
            serve_samples=site.serve_samples,
        )
        return HTMLResponse(page, headers=_CHARTS_POLICY)

    return [
        Route("/", overview),
        Route("/api/page", changes),
        Route("/devices/{device}", device),
        *(Route(f"/{name}", _file(PAGE_FOLDER / name, kind)) for name, kind in _FILES.items()),
        Route("/plotly.js", _file(plotly_path(), "text/javascript", _LONG)),
    ]


def plotly_path() -> Path:
    """The charting library, from inside its Python package."""
    found = find_spec("plotly")  # not imported: only one file of it is served
    assert found
    assert found.origin
    return Path(found.origin).parent / "package_data" / "plotly.min.js"


def _why_not_listed(site: Site, device_id: str) -> str:
    if device_id not in read_forgotten(site.run_folder):
        return f"There is no device {device_id}."
    return (
        f"{device_id} was forgotten (--forget), and is listed again as soon as it sends. Its data stays: "
        f"python -m ec_server.export {device_id} --from ... --to ..."
    )


def _message(headline: str, text: str, status: int) -> Response:
    page = render("message.html", title=headline, clock="", headline=headline, text=text)
    return HTMLResponse(page, status)


def _file(path: Path, media_type: str, headers: dict[str, str] | None = None) -> Endpoint:
    async def answer(_request: Request) -> Response:
        return FileResponse(path, media_type=media_type, headers=headers)

    return answer
