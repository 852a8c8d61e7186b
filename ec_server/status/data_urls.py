"""``/api/devices/ID/...``: one device's minutes, availability, samples and power, streamed.

Wrong parameters are answered with 400 and what is allowed, unknown devices with 404.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ec_server.export import availability, power
from ec_server.export.extract import Report, extract
from ec_server.export.minute_lines import MOST_COUNTED, minute_lines
from ec_server.export.sample_formats import CsvEncoder, ParquetEncoder
from ec_server.export.stored_seconds import Span, check_span, length_text, parse_moment
from ec_server.status.streamed_answer import NoSuchDeviceError, StoredData
from ec_server.storage.contract import Store
from utilities import utc
from utilities.errors import ConfigurationError

JSON = "application/json"
MOST_MINUTES_S = 3_660 * utc.DAY_S
MOST_SAMPLES_S = utc.HOUR_S
SAMPLES_REFUSED = (
    "samples and power are not served beyond loopback without status.token: set it, or ask on the "
    "server's own machine"
)
_FORMATS: dict[str, type[CsvEncoder] | type[ParquetEncoder]] = {"csv": CsvEncoder, "parquet": ParquetEncoder}
_LINES_A_PIECE = 500
_SECONDS_A_BREATH = 20

Endpoint = Callable[[Request], Awaitable[Response]]


def data_routes(data: StoredData, *, serve_samples: bool) -> list[Route]:
    """The routes for a device's stored data; without ``serve_samples``, two of them answer 403."""

    async def minutes(request: Request) -> Response:
        span = _span(request, MOST_MINUTES_S)
        return await data.answer(lambda store: _minutes(_known(store, span), span), JSON, {})

    async def spans(request: Request) -> Response:
        span = _span(request, None)
        return await data.answer(lambda store: _availability(_known(store, span), span), JSON, {})

    async def samples(request: Request) -> Response:
        span = _span(request, MOST_SAMPLES_S, "format")
        name = request.query_params.get("format", "csv")
        if name not in _FORMATS:
            raise _bad(f"format={name!r} is not one of {', '.join(_FORMATS)}")
        try:
            encoder = _FORMATS[name]()
        except ConfigurationError as error:
            raise HTTPException(501, str(error)) from error
        file = f"{span.device_id}-{utc.second_text(span.start)}-{utc.second_text(span.stop)}.{name}"
        headers = {"content-disposition": f'attachment; filename="{file}"'}
        return await data.answer(
            lambda store: _samples(_known(store, span), span, encoder), encoder.media_type, headers
        )

    async def chart(request: Request) -> Response:
        span = _span(request, None, "points", "seconds")
        points = _whole(request, "points", power.DEFAULT_POINTS, power.MOST_POINTS)
        seconds = _whole(request, "seconds", power.MOST_SECONDS, power.MOST_SECONDS)
        return await data.answer(lambda store: _power(_known(store, span), span, points, seconds), JSON, {})

    guarded = (lambda endpoint: endpoint) if serve_samples else _refused
    return [
        Route("/api/devices/{device}/minutes", minutes),
        Route("/api/devices/{device}/availability", spans),
        Route("/api/devices/{device}/samples", guarded(samples)),
        Route("/api/devices/{device}/power", guarded(chart)),
    ]


def _refused(_endpoint: Endpoint) -> Endpoint:
    async def refuse(_request: Request) -> Response:
        return JSONResponse({"error": SAMPLES_REFUSED}, 403)

    return refuse


# --- parameters -------------------------------------------------------------------------------


def _span(request: Request, most_s: int | None, *others: str) -> Span:
    """The requested device and range; 400 if a parameter is missing, wrong or unknown."""
    given: Mapping[str, str] = request.query_params
    allowed = ("from", "to", *others)
    if unknown := sorted(set(given) - set(allowed)):
        raise _bad(f"{unknown[0]!r} is not a parameter here; allowed: {', '.join(allowed)}")
    if len(request.query_params.multi_items()) != len(given):
        raise _bad("a parameter is given twice")
    try:
        start, stop = (parse_moment(given[name]) for name in ("from", "to"))
        span = Span(request.path_params["device"], start, stop)
        check_span(span, most_s)
    except KeyError as error:
        raise _bad(f"{error.args[0]!r} is missing: a UTC moment, YYYYMMDDhhmm or YYYYMMDDhhmmss") from error
    except ValueError as error:
        limit = "" if most_s is None else f" (at most {length_text(most_s)} at once)"
        raise _bad(f"{error}{limit}") from error
    return span


def _whole(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise _bad(f"{name}={text!r} is not a whole number from 1 to {most:,}")
    return int(text)


def _bad(text: str) -> HTTPException:
    return HTTPException(400, text)


def _known(store: Store, span: Span) -> Store:
    # A device is recorded a moment after its first rows, so rows count as well.
    if store.device(span.device_id) is None and store.earliest_minute(span.device_id) is None:
        raise NoSuchDeviceError(f"device {span.device_id} is unknown: see /api/devices")
    return store


# --- bodies -----------------------------------------------------------------------------------


def _minutes(store: Store, span: Span) -> Iterator[bytes]:
    return _array(json.dumps(line.as_object()) for line in minute_lines(store, span, MOST_COUNTED))


def _array(items: Iterator[str]) -> Iterator[bytes]:
    """A JSON array, in pieces of a few hundred items."""
    held, opened = [], False
    for item in items:
        held.append(item)
        if len(held) == _LINES_A_PIECE:
            yield f"{',' if opened else '['}\n{f',{chr(10)}'.join(held)}".encode()
            held, opened = [], True
    rest = f",{chr(10)}".join(held)
    yield f"{',' if opened and held else '' if opened else '['}\n{rest}\n]\n".encode()


def _availability(store: Store, span: Span) -> Iterator[bytes]:
    yield b" "
    found = availability.Availability()
    for _ in availability.find_availability(store, span, found):
        yield b" "  # blanks before JSON are ignored by parsers, and keep the connection alive
    answer = {
        "device_id": span.device_id,
        "from": utc.second_text(span.start),
        "to": utc.second_text(span.stop),
        "stored": found.stored,
        "proven": found.proven,
        "gaps": found.gaps,
        "exact": found.exact,
    }
    yield json.dumps(answer).encode()


def _samples(store: Store, span: Span, encoder: CsvEncoder | ParquetEncoder) -> Iterator[bytes]:
    yield encoder.begin()
    for second, text in extract(store, span, None, Report()):
        if piece := encoder.add(second, text):
            yield piece
    yield encoder.finish()


def _power(store: Store, span: Span, points: int, seconds: int) -> Iterator[bytes]:
    comma = b""
    yield b"["
    held: list[bytes] = []
    for number, step in enumerate(chain(power.power_steps(store, span, points, seconds), [None])):
        if step is not None:
            held.append(comma + json.dumps(step).encode())
            comma = b",\n"
        if held and (step is None or len(held) >= _LINES_A_PIECE):
            yield b"".join(held)
            held = []
        elif step is None and number % _SECONDS_A_BREATH == 0:
            yield b" "
    yield b"]\n"
