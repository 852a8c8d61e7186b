"""The sockets of the SIP port: listens over UDP, TCP and TLS, and serves requests, in one thread.

Rules:

1. The given handler handles each request, and its reply is sent to where the request came from. Nothing is
   ever sent elsewhere: no name is resolved, no connection is opened.
2. The number of connections is limited (connection_budget.py). A new connection is always accepted; if it is
   one too many, another one is closed immediately.
3. An error affects only its own datagram or connection: it is caught, counted, and logged at a limited rate.
"""

from __future__ import annotations

import logging
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from utilities.connection_budget import ConnectionBudget
from utilities.log import RateLimit
from utilities.sip_connection import Connection, End, Ended, Handler, Request
from utilities.sip_gate import Origin
from utilities.sip_request import END_OF_HEAD, MESSAGE_LIMIT_BYTES, address

MOST_CONNECTIONS = 1000
"""Limit for one receiver, over TCP and TLS together."""
_SHARE_OF_AN_ADDRESS = 0.5
_OTHER_FILES = 64
_QUEUE = 512
_ACCEPTED_A_TURN = 64
_DATAGRAMS_A_TURN = 128
_KNOWN_ORIGINS = 4096
_STUCK_S = 30.0
_UNREAD_S = 5.0
_IDLE_S = 600.0
_SWEEP_S = 1.0
_QUIET = frozenset({End.PEER, End.IDLE, End.STOP})

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PortFigures:
    """Counters of the port."""

    connections: int = 0
    """Connections open now."""
    evicted: int = 0
    refused: int = 0
    dropped: int = 0


class SipPort:
    """Used by one thread: ``listen_...`` for each transport, then ``serve`` in a loop, then ``close``."""

    def __init__(
        self, handler: Handler, local: Callable[[str], str], may_send: Callable[[str], bool]
    ) -> None:
        """``local`` returns this server's ``ip:port`` for a transport, as told to subscribers."""
        self._handler, self._local, self._may_send = handler, local, may_send
        self._selector = selectors.DefaultSelector()
        self._listening: list[socket.socket] = []
        self._budget: ConnectionBudget[Connection] = ConnectionBudget(*_limits())
        self._connections: dict[Connection, int] = {}
        self._origins: dict[tuple[object, ...], Origin] = {}
        self._limit = RateLimit()
        self._next_sweep_s = 0.0
        self.figures = PortFigures()

    def listen_udp(self, one: socket.socket) -> None:
        """Receive datagrams on a bound socket."""
        self._listen(one, partial(self._datagrams, one, self._local("UDP")))

    def listen_tcp(self, one: socket.socket) -> None:
        """Accept connections on a bound socket."""
        one.listen(_QUEUE)
        self._listen(one, partial(self._accept, one, "TCP", None))

    def listen_tls(self, one: socket.socket, context: ssl.SSLContext) -> None:
        """Accept TLS connections on a bound socket."""
        one.listen(_QUEUE)
        self._listen(one, partial(self._accept, one, "TLS", context))

    def serve(self, wait_s: float) -> None:
        """Serve what is ready, waiting for at most ``wait_s``."""
        now_s = time.monotonic()
        for key, events in self._selector.select(wait_s):
            now_s = time.monotonic()
            if isinstance(key.fileobj, Connection):
                if key.fileobj in self._connections:
                    self._serve_connection(key.fileobj, events, now_s)
            else:
                try:
                    key.data(now_s)
                except Exception:
                    self._report(logging.ERROR, "port", "the SIP port: %s failed", key.fileobj, error=True)
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_S
            self._sweep(now_s)

    def close(self) -> None:
        """Close every socket."""
        for one in self._listening:
            self._selector.unregister(one)
            one.close()
        self._listening.clear()
        for connection in list(self._connections):
            self._end(connection, End.STOP)
        self._selector.close()

    # --- datagrams ----------------------------------------------------------------------------

    def _listen(self, one: socket.socket, serve: Callable[[float], None]) -> None:
        one.setblocking(False)
        self._listening.append(one)
        self._selector.register(one, selectors.EVENT_READ, serve)

    def _datagrams(self, one: socket.socket, local: str, _now_s: float) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                data, source = one.recvfrom(MESSAGE_LIMIT_BYTES + 1)  # one more tells that it is too long
            except BlockingIOError:
                return
            except OSError:  # an ICMP error caused by an earlier answer
                continue
            try:
                self._datagram(one, data, source, self._origins.get(source) or self._origin(source, local))
            except Exception:
                self._report(
                    logging.ERROR, "datagram", "a datagram from %s could not be served", source, error=True
                )

    def _datagram(self, one: socket.socket, data: bytes, source: tuple[str, int], origin: Origin) -> None:
        end = data.find(END_OF_HEAD)
        request = self._handler.read(data[:end].lstrip(b"\r\n"), origin) if end >= 0 else None
        if request is None:
            self.figures.dropped += bool(data.strip(b"\r\n\0"))  # else it is a keep-alive
            return
        request, body = _body(request, data, end + len(END_OF_HEAD))
        reply = self._handler.handle(request, body, origin)
        try:
            if reply.answer:
                one.sendto(reply.answer, (source[0], reply.port, *source[2:]))
            if reply.notify:
                one.sendto(reply.notify, source)
        except OSError as error:  # the sender will retransmit
            self._report(logging.WARNING, "answer", "an answer to %s cannot be sent: %s", origin.name, error)

    def _origin(self, source: tuple[str, int], local: str) -> Origin:
        """Where a datagram came from; cached."""
        if len(self._origins) >= _KNOWN_ORIGINS:
            self._origins.clear()
        ip, port = source[:2]
        found = Origin(ip, port, "UDP", local, address(ip, port), "", self._may_send)
        self._origins[source] = found
        return found

    # --- connections --------------------------------------------------------------------------

    def _accept(
        self, one: socket.socket, transport: str, context: ssl.SSLContext | None, now_s: float
    ) -> None:
        for _ in range(_ACCEPTED_A_TURN):
            try:
                accepted, source = one.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._report(logging.WARNING, "accept", "a connection cannot be accepted: %s", error)
                return
            try:
                self._open(accepted, source, transport, context, now_s)
            except (OSError, ValueError):  # the peer has gone already
                accepted.close()

    def _open(
        self,
        accepted: socket.socket,
        source: tuple[str, int],
        transport: str,
        context: ssl.SSLContext | None,
        now_s: float,
    ) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is not None:
            accepted = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        ip, port = source[:2]
        origin = Origin(ip, port, transport, self._local(transport), address(ip, port), "", self._may_send)
        names_peers = context is not None and context.verify_mode == ssl.CERT_REQUIRED
        connection = Connection(accepted, origin, self._handler, now_s, names_peers=names_peers)
        self._connections[connection] = selectors.EVENT_READ
        self._selector.register(connection, selectors.EVENT_READ)
        for evicted in self._budget.opened(connection, ip):
            self.figures.evicted += 1
            self._end(evicted, End.EVICTED)
        self.figures.connections = len(self._connections)

    def _serve_connection(self, connection: Connection, events: int, now_s: float) -> None:
        try:
            connection.serve(events, now_s)
        except Ended as ended:
            self._end(connection, ended.why, ended.detail)
        except Exception:
            self._report(
                logging.ERROR, "served", "connection from %s failed", connection.origin.name, error=True
            )
            self._end(connection, End.FAULT)
        else:
            if connection.valid_s == now_s:
                self._budget.heard(connection, now_s)
            if (wanted := connection.wants()) != self._connections[connection]:
                self._connections[connection] = wanted
                self._selector.modify(connection, wanted)

    def _sweep(self, now_s: float) -> None:
        """Close connections that are stuck or have been idle for long."""
        for connection in list(self._connections):
            since_s = connection.stuck_since_s
            if since_s is not None:
                if now_s - since_s > (_UNREAD_S if connection.owes is End.UNREAD else _STUCK_S):
                    self._end(connection, connection.owes)
            elif now_s - connection.heard_s > _IDLE_S:
                self._end(connection, End.IDLE)

    def _end(self, connection: Connection, why: End, detail: str = "") -> None:
        """Close a connection, and log it if the reason is of interest."""
        if self._connections.pop(connection, None) is None:
            return
        self._budget.closed(connection)
        self._selector.unregister(connection)
        connection.close()
        self.figures.connections = len(self._connections)
        if why not in _QUIET:
            reason = f"{why.value} ({detail})" if detail else why.value
            name = connection.origin.name
            self._report(logging.WARNING, why.name, "connection from %s closed: %s", name, reason)

    def _report(self, level: int, kind: str, text: str, *values: object, error: bool = False) -> None:
        write, held_back = self._limit.allow(kind)
        if held_back:
            _log.warning("the SIP port: %d more lines like these were suppressed", held_back)
        if write:
            _log.log(level, text, *values, exc_info=error)


def _body(request: Request, data: bytes, start: int) -> tuple[Request, bytes]:
    """The body of a request that came as a datagram, and the request, with its true length where it is cut.

    A message that is too long must not pass for a whole one: where what is left of it ends in an end mark,
    that goes as well.
    """
    body = data[start:] if request.length is None else data[start : start + request.length]
    if start + len(body) <= MESSAGE_LIMIT_BYTES:
        return request, body
    length = len(body) if request.length is None else request.length
    return request._replace(length=length), body[: MESSAGE_LIMIT_BYTES - start].rstrip(b" \r\n|")


def _limits() -> tuple[int, int]:
    """How many connections there may be, and how many unproven ones of one address."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = (
        MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files - _OTHER_FILES)
    )
    most = max(most, 2)
    return most, max(1, int(most * _SHARE_OF_AN_ADDRESS))
