"""The SIP side of a receiver: where it listens, and how it handles MESSAGE and SUBSCRIBE.

Rules:

1. One thread starts, runs and stops it; ``take`` is called in that thread.
2. A MESSAGE is answered with 200 after ``take`` has accepted it, never before. A retransmission is taken
   again, and becomes the same row.
3. ``take`` may block. That is the back-pressure: TCP senders slow down, UDP senders retransmit.
4. sip_gate.py decides about all requests; those other than MESSAGE and SUBSCRIBE go no further.

No SIP library is used: a server that accepts MESSAGEs only has to read heads and to write answers, and the
library that was used before could be crashed, stalled and flooded by anybody
(docs/decisions/0015-strangers-meet-a-gate.md). sip_registration.py registers the server with a registrar if
that is configured. The reference meter sends with PJSIP (sip_client.py).
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from utilities.errors import ConfigurationError, EcServerError
from utilities.log import RateLimit
from utilities.model import RawMessage
from utilities.sip_connection import Reply, Request
from utilities.sip_gate import Action, Origin, answer, answer_port, decide, notify
from utilities.sip_port import PortFigures, SipPort
from utilities.sip_registration import Contact, Registration, RegistrationThread
from utilities.sip_request import address, read_head
from utilities.sip_shape import KnownShapes
from utilities.sip_tls import TlsFiles, server_context

_SOCKET_BUFFER_BYTES = 512 << 10
"""Over UDP, answering datagrams that have waited for more than 0.5 s is useless: they were sent again."""
_POLL_S = 0.05
_TAKEN, _FAILED = b"SIP/2.0 200 OK", b"SIP/2.0 500 Server Internal Error"
_NOTHING = Reply()
_KNOWN_SENDERS = 4096

_log = logging.getLogger(__name__)


class PortInUseError(EcServerError):
    """Another program uses the port; a restart would fail as well."""


@dataclass(frozen=True, slots=True)
class SipOptions:
    """Where a receiver listens. ``bind`` is an IP address; ``tls`` is needed only for transport ``tls``."""

    public_addr: str
    bind: str
    port: int
    transports: tuple[str, ...]
    tls_port: int = 0
    tls: TlsFiles | None = None
    registration: Registration | None = None
    """None if another process registers, or none does."""

    def port_of(self, transport: str) -> int:
        """The port of ``udp``, ``tcp`` or ``tls``."""
        return self.tls_port if transport == "tls" else self.port


@dataclass(frozen=True, slots=True)
class Senders:
    """Who may send, as far as the source address tells."""

    device_may_send: Callable[[str, str], bool] = lambda _device_id, _ip: True
    """Whether the given device may send from an IP address."""
    some_may_send: Callable[[str], bool] = lambda _ip: True
    """Whether any device may send from an IP address."""
    is_valid: Callable[[bytes], bool] = lambda _body: True
    """Whether a body is a message that could be stored; asked until a connection has carried one."""


class SipReceiver:
    """Receives SIP MESSAGEs. All calls must come from one thread."""

    def __init__(
        self, options: SipOptions, take: Callable[[RawMessage], object], senders: Senders | None = None
    ):
        """``take`` is called with each message and may block; if it returns False, no answer is sent."""
        self._options, self._take = options, take
        senders = senders or Senders()
        self._is_valid_body = senders.is_valid
        self._device_may_send = lru_cache(_KNOWN_SENDERS)(senders.device_may_send)
        self._port = SipPort(self, self._told_address, lru_cache(_KNOWN_SENDERS)(senders.some_may_send))
        self._registration: RegistrationThread | None = None
        self._limit = RateLimit()
        self._sequence = 0
        self._shapes = KnownShapes()

    @property
    def figures(self) -> PortFigures:
        """What has happened at the port so far."""
        return self._port.figures

    def start(self) -> None:
        """Listen. Raises PortInUseError, or ConfigurationError if the options cannot be used."""
        options = self._options
        try:
            context = server_context(options.tls) if "tls" in options.transports else None
            for transport in options.transports:
                one = _bound(transport, options.bind, options.port_of(transport))
                if transport == "udp":
                    self._port.listen_udp(one)
                elif transport == "tcp":
                    self._port.listen_tcp(one)
                else:
                    assert context is not None
                    self._port.listen_tls(one, context)
            if options.registration:
                self._registration = RegistrationThread(options.registration, _contact(options))
                self._registration.start()
        except BaseException:
            self.stop()
            raise

    def run(self, until: Callable[[], bool], on_tick: Callable[[], None], tick_s: float = 0.5) -> None:
        """Serve until ``until`` returns True; ``on_tick`` is called at least every ``tick_s``."""
        serve, now = self._port.serve, time.monotonic
        next_tick = 0.0
        while not until():
            if now() >= next_tick:
                on_tick()
                next_tick = now() + tick_s
            serve(_POLL_S)

    def stop(self) -> None:
        """Unregister, then close every socket. Nothing is answered with 200 afterwards."""
        if self._registration:
            self._registration.stop()
            self._registration = None
        self._port.close()

    # --- requests -----------------------------------------------------------------------------

    def read(self, raw: bytes, origin: Origin) -> Request | None:
        """Read and judge a head: by the shape of the sender's previous one, or by the gate."""
        known = self._shapes.find(raw, origin)
        if known is not None:
            shape, plain = known
            return Request(plain.length, shape.port, plain.answer)
        head = read_head(raw)
        if head is None:
            return None
        row = decide(head, origin)
        self._shapes.learn(raw, head, row, origin)
        return Request(head.length, answer_port(head, origin), b"", head, row)

    def handle(self, request: Request, body: bytes, origin: Origin) -> Reply:
        """The reply to a request. Exceptions of ``take`` are caught here."""
        text, head, row = request.answer, request.head, request.row
        if head is not None and row is not None:
            if row.action is Action.DROP:
                self.figures.dropped += 1
                return _NOTHING
            text = answer(head, origin, row)
            if row.action is Action.REFUSE:
                self.figures.refused += 1
                return Reply(text, request.port)
            if row.action is Action.PRESENT:
                return Reply(text, request.port, notify(head, origin, self._next_sequence()))
        cut = request.length is not None and request.length > len(body)
        message = RawMessage(body, origin.name, time.time_ns() // 1000, origin.peer_name, cut)
        try:
            if self._take(message) is False:
                return _NOTHING
        except Exception:
            write, held_back = self._limit.allow("taken")
            if write:
                _log.exception("a request could not be processed (%d more before)", held_back)
            return Reply(_FAILED + text.removeprefix(_TAKEN), request.port)
        may_send = origin.transport != "UDP" and self._may_send(body, origin)
        return Reply(text, request.port, b"", may_send)

    def proves(self, body: bytes) -> bool:
        """Whether a body of a device that may send is a valid message."""
        return self._is_valid_body(body)

    def _may_send(self, body: bytes, origin: Origin) -> bool:
        """Whether a body begins with the id of a device that may send from there."""
        device_id, mark, _ = body[:65].partition(b"|")
        name = device_id.decode("latin-1")
        if not mark or (origin.peer_name and origin.peer_name != name):
            return False
        return self._device_may_send(name, origin.ip)

    def _next_sequence(self) -> int:
        """Increases from NOTIFY to NOTIFY, even across a restart."""
        self._sequence = max(self._sequence + 1, int(time.time()) & 0x7FFFFFFF)
        return self._sequence

    def _told_address(self, transport: str) -> str:
        """This server's ``ip:port``, as told to subscribers."""
        return address(self._options.public_addr, self._options.port_of(transport.lower()))


def _bound(transport: str, bind: str, port: int) -> socket.socket:
    """A socket bound to an address that several receivers share."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    one = socket.socket(family, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if transport != "udp":  # else connections of the previous run would block a restart
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        one.bind((bind, port))
    except OSError as error:
        one.close()
        where = f"{address(bind, port)} over {transport}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"cannot listen on {where}: the port is in use; end the other program or set sip.port"
            ) from None
        raise ConfigurationError(f"cannot listen on {where}: {error.strerror}") from None
    return one


def _contact(options: SipOptions) -> Contact:
    """The contact under which the registrar finds the shared port."""
    over = next(transport for transport in ("udp", "tcp", "tls") if transport in options.transports)
    return Contact(options.bind, address(options.public_addr, options.port_of(over)), over)
