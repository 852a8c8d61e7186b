"""Decides who may see what on the status port, before any page is built; never outputs a secret.

Rules:

1. If ``status.token`` is set, everything except ``/healthz`` and ``/readyz`` requires it, as
   ``Authorization: Bearer TOKEN`` or as the password of Basic with any user name (as browsers ask for it).
   It is compared in constant time.
2. If it is empty and the port is reachable beyond loopback, samples and power are refused, as they show what
   a household is doing.
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
    """The application protected by the token; ``app`` itself if the token is empty."""
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
