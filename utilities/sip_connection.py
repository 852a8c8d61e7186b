"""One TCP or TLS connection to the SIP port: handshake, splitting the stream into messages, sending answers.

Rules:

1. Nothing blocks. Answers that cannot be sent at once are kept, up to `_MOST_UNSENT_BYTES`. After that,
   nothing is read until the peer has read its answers, so that a peer that does not read only slows itself
   down.
2. The connection is closed if the start of the next message cannot be determined: no usable Content-Length,
   or a head or a message of more than 4,000 bytes. The rest of the stream would be misinterpreted.
3. The peer's identity (the name in its certificate) belongs to the connection. If certificates are requested
   and the name cannot be read, it is NAMELESS, which is no device's name.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from dataclasses import replace
from enum import Enum
from typing import NamedTuple, Protocol

from utilities.sip_gate import Origin, Row
from utilities.sip_request import END_OF_HEAD, MESSAGE_LIMIT_BYTES, Head, content_length
from utilities.sip_tls import common_name

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_READ_BYTES = 1 << 16
_READS_A_TURN = 4
_MOST_UNSENT_BYTES = 1 << 16


class End(Enum):
    """Why a connection ended."""

    PEER = "the peer has closed it"
    HANDSHAKE = "TLS handshake failed"
    STREAM = "not a SIP message of known length"
    TOO_LONG = f"a message of more than {MESSAGE_LIMIT_BYTES:,} bytes"
    UNREAD = "its peer does not read its answers"
    SLOW = "a message or a handshake was not completed in time"
    IDLE = "idle"
    EVICTED = "there are too many connections"
    FAULT = "it could not be served"
    STOP = "the receiver stops"


class Reply(NamedTuple):
    """The reply to a request."""

    answer: bytes = b""
    port: int = 0
    """Over UDP: the port of the source address to which the answer is sent."""
    notify: bytes = b""
    """Another message to send to the source after the answer."""
    may_send: bool = False
    """Whether it was a MESSAGE that begins with the id of a device that may send."""


class Request(NamedTuple):
    """A request whose head has been read and judged."""

    length: int | None
    """Content-Length; None if there is none, or none that can be used."""
    port: int
    """Over UDP: the port of the source address to which its answer is sent."""
    answer: bytes = b""
    """The 200 for a MESSAGE to be taken, if it was built already."""
    head: Head | None = None
    """Otherwise the head, and the row of the table that applies."""
    row: Row | None = None


class Handler(Protocol):
    """Handles requests."""

    def read(self, raw: bytes, origin: Origin) -> Request | None:
        """Read and judge a head; None if it is not a request that can be answered."""

    def handle(self, request: Request, body: bytes, origin: Origin) -> Reply:
        """The reply to a request. May block, which is the back-pressure."""

    def proves(self, body: bytes) -> bool:
        """Whether a body of a device that may send is a valid message, which proves its connection."""


class Ended(Exception):  # noqa: N818  (not an error: a signal to the connection's owner)
    """The connection is over."""

    def __init__(self, why: End, detail: str = "") -> None:
        super().__init__(why.value)
        self.why, self.detail = why, detail


class Connection:
    """Used by one thread. Methods raise Ended when the connection is over; the owner then closes it."""

    __slots__ = (
        "_handler", "_left", "_moved", "_names_peers", "_needed", "_shaking", "_socket", "_unsent", "heard_s",
        "origin", "stuck_since_s", "valid_s",
    )  # fmt: skip

    def __init__(
        self, accepted: socket.socket, origin: Origin, handler: Handler, now_s: float, *, names_peers: bool
    ) -> None:
        """``accepted`` must be non-blocking; ``names_peers``: the peer had to show a certificate."""
        self._socket, self.origin, self._handler = accepted, origin, handler
        self._names_peers = names_peers
        self._shaking = isinstance(accepted, ssl.SSLSocket)
        self._left = b""
        self._needed = 0
        self._unsent = b""
        self._moved = False
        self.heard_s = now_s
        self.stuck_since_s: float | None = now_s if self._shaking else None
        """Since when the peer is due: with the handshake, the rest of a message, or reading its answers."""
        self.valid_s: float | None = None
        """When the last message arrived that counts; none does before a valid one."""

    @property
    def owes(self) -> End:
        """What the peer has not done in time, if it is stuck."""
        return End.UNREAD if self._unsent else End.SLOW

    def fileno(self) -> int:
        """The socket's file descriptor, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def wants(self) -> int:
        """The events to wait for."""
        if not self._unsent:
            return READ
        return WRITE if len(self._unsent) > _MOST_UNSENT_BYTES else READ | WRITE

    def serve(self, events: int, now_s: float) -> None:
        """Do what can be done now."""
        self._moved = False
        if self._shaking and not self._shake():
            return
        if self._unsent:
            self._send(b"")
        if events & READ and len(self._unsent) <= _MOST_UNSENT_BYTES:
            self._read(now_s)
        if not (self._unsent or self._left):
            self.stuck_since_s = None
        elif self._moved or self.stuck_since_s is None:
            self.stuck_since_s = now_s

    def _shake(self) -> bool:
        """Whether the handshake is complete."""
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise Ended(End.HANDSHAKE, str(error)) from None
        if self._names_peers:
            self.origin = replace(self.origin, peer_name=common_name(self._socket.getpeercert()))
        self._shaking, self.stuck_since_s = False, None
        return True

    def _read(self, now_s: float) -> None:
        for _ in range(_READS_A_TURN):
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise Ended(End.PEER, str(error)) from None
            if not data:
                raise Ended(End.PEER)
            self.heard_s = now_s
            self._take(data, now_s)
            if len(self._unsent) > _MOST_UNSENT_BYTES or (len(data) < _READ_BYTES and not self._buffered()):
                return

    def _buffered(self) -> int:
        """Bytes that TLS has decrypted already, which no selector reports."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    def _take(self, data: bytes, now_s: float) -> None:
        """Split the received bytes into messages, and send their answers together."""
        waiting = self._left + data if self._left else data
        if len(waiting) < self._needed:
            self._left = waiting
            return
        answers: list[bytes] = []
        try:
            self._left = waiting[self._messages(waiting, answers, now_s) :]
        finally:
            if answers:
                self._send(b"".join(answers))

    def _messages(self, waiting: bytes, answers: list[bytes], now_s: float) -> int:
        """Handle every complete message; returns where the first incomplete one begins."""
        at, size = 0, len(waiting)
        self._needed = 0
        while True:
            while at < size and waiting[at] in b"\r\n":
                at += 1
            end = waiting.find(END_OF_HEAD, at, at + MESSAGE_LIMIT_BYTES)
            if end < 0:
                if size - at >= MESSAGE_LIMIT_BYTES:
                    raise Ended(End.TOO_LONG)
                return at
            request = self._handler.read(raw := waiting[at:end], self.origin)
            end += len(END_OF_HEAD)
            length = content_length(raw) if request is None else request.length
            if length is None:
                if request is not None:
                    self._answer(request, b"", answers, now_s)
                raise Ended(End.STREAM)
            if end - at + length > MESSAGE_LIMIT_BYTES:
                raise Ended(End.TOO_LONG)
            if size < end + length:
                self._needed = end - at + length
                return at
            at = end + length
            if request is not None:
                self._answer(request, waiting[end:at], answers, now_s)

    def _answer(self, request: Request, body: bytes, answers: list[bytes], now_s: float) -> None:
        reply = self._handler.handle(request, body, self.origin)
        self._moved = True
        if reply.may_send and (self.valid_s is not None or self._handler.proves(body)):
            self.valid_s = now_s
        answers.append(reply.answer)
        if reply.notify:
            answers.append(reply.notify)

    def _send(self, data: bytes) -> None:
        unsent = self._unsent + data if self._unsent else data
        try:
            while unsent:
                unsent = unsent[self._socket.send(unsent) :]
                self._moved = True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            raise Ended(End.PEER, str(error)) from None
        self._unsent = unsent
