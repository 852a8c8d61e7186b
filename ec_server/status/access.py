"""Who may see what on the status port, decided before any page is built; no secret is ever written.

Rules:

1. Where ``status.token`` is set, everything but ``/healthz`` and ``/readyz`` needs it: as
   ``Authorization: Bearer TOKEN``, or as the password of Basic with any name (what a browser asks for).
   It is compared in constant time.
2. Where it is empty and the port is open beyond loopback, samples and power are refused: they are what
   a household does.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_TO_ALL = frozenset(("/healthz", "/readyz"))
_CHALLENGE = {"www-authenticate": 'Basic realm="Energy Consumption Server", charset="UTF-8"'}


def with_token(app: ASGIApp, token: str) -> ASGIApp:
    """The application behind a token; itself where there is none."""
    if not token:
        return app
    expected = token.encode("utf-8")

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_TO_ALL or _carries(scope, expected):
            await app(scope, receive, send)
            return
        text = "status.token is set: send it as Authorization: Bearer, or as the password of Basic"
        await JSONResponse({"error": text}, 401, headers=_CHALLENGE)(scope, receive, send)

    return guarded


def serves_samples(address: str, token: str) -> bool:
    """Whether samples and power are served on this ``status.ip`` with this ``status.token``."""
    return bool(token) or ipaddress.ip_address(address).is_loopback


def _carries(scope: Scope, expected: bytes) -> bool:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    return len(given) == 1 and hmac.compare_digest(_secret_of(given[0]), expected)


def _secret_of(header: bytes) -> bytes:
    """The token that an Authorization header carries; empty if it carries none."""
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
