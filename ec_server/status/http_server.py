"""Serves the application to many clients; idle, slow and greedy ones must not affect the others.

Rules:

1. A client must complete a request, and accept each piece of its answer, within ``DEADLINE_S`` of connecting
   or of the previous piece; otherwise the connection is aborted. uvicorn itself waits indefinitely for the
   bytes of a first request, and for a client that does not read. Pieces are small, so that a slow
   connection has time for each of them: 10 KB per second are enough.
2. At most ``MOST_CONNECTIONS`` are served at once; further connections are aborted immediately.
3. The size of request heads is limited (16 KiB); bodies are not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

DEADLINE_S = 15.0
MOST_CONNECTIONS = 256
PIECE_BYTES = 32 * 1024
_HEAD_BYTES = 16 * 1024
_BEAT_S = 0.5


class _ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a deadline for each request and each piece of an answer."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _WatchedTransport(transport, self._restart_deadline)  # type: ignore[assignment]
        self._restart_deadline()
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def on_response_complete(self) -> None:
        self._restart_deadline()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _restart_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(DEADLINE_S, self.transport.abort)


class _WatchedTransport:
    """A transport that reports each write: by then, the client has accepted the previous piece."""

    def __init__(self, transport: asyncio.Transport, written: Callable[[], None]) -> None:
        self._transport, self._written = transport, written

    def write(self, data: bytes) -> None:
        self._written()
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def in_small_pieces(app: ASGIApp) -> ASGIApp:
    """The application, its answers handed on in pieces of at most ``PIECE_BYTES``, each once it is taken."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_pieces(message: Message) -> None:
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
            for at in range(0, last, PIECE_BYTES):
                piece = body[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({**message, "body": body[last:]} if last else message)

        await app(scope, receive, send_pieces)

    return wrapped


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the address is in use or not one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: ASGIApp, listener: socket.socket, beat: Callable[[], None], *, until_eof: bool) -> None:
    """Serve until SIGTERM, SIGINT or, with ``until_eof``, the end of stdin.

    Main thread only; ``beat`` is called twice a second from the serving loop.
    """
    config = uvicorn.Config(
        in_small_pieces(app),
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    server = uvicorn.Server(config)
    # uvicorn has its own handlers while it serves, and at its end raises the signal that stopped it again.
    # Before and after, a signal must request the end rather than kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: setattr(server, "should_exit", True))
    asyncio.run(_serve(server, listener, beat, until_eof))


async def _serve(
    server: uvicorn.Server, listener: socket.socket, beat: Callable[[], None], until_eof: bool
) -> None:
    if until_eof:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _stop_at_eof, server)
    beating = asyncio.create_task(_beat(beat))
    try:
        await server.serve(sockets=[listener])
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def _beat(beat: Callable[[], None]) -> None:
    while True:
        beat()
        await asyncio.sleep(_BEAT_S)


def _stop_at_eof(server: uvicorn.Server) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        server.should_exit = True
