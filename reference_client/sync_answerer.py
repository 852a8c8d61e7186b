"""The meter's side of the synchronization: connects to the server and answers from the recordings.

This is an example for developers of meters in other languages. The essential part is ``answer``: three kinds
of request, answered from the local store. The rest is a connection that is opened again whenever it ends.
The pause before that grows until a connection makes progress (being welcomed is not progress), with random
jitter, so that a thousand meters do not reconnect at the same time.

The server is in control: a meter only sends ``hello`` (and proves its key), answers requests, and answers
``ping`` with ``pong`` (which the session does by itself). A meter with a key does not serve a server that
does not ask for it; otherwise any program that takes the server's place would get all samples.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from ec_server.synchronization.frames import (
    Answer,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Auth,
    Challenge,
    Hello,
    Minutes,
    Ping,
    Samples,
    Seconds,
    Side,
    Verified,
    Welcome,
    mac_of,
    samples_answer,
)
from ec_server.synchronization.session import Ended, Event, Session
from utilities.errors import ProtocolError
from utilities.model import Digest
from utilities.utc import minute_text

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 90.0
"""After this long without a frame, the server is pinged; after twice that, the connection is given up."""
_READ_BYTES = 65_536

_log = logging.getLogger(__name__)


class Recorded(Protocol):
    """Access to a meter's recordings, such as local_store.py. Called by the answering thread."""

    def oldest(self) -> int | None:
        """The first minute with anything recorded; None if nothing is recorded."""

    def through(self) -> int | None:
        """The first minute that is not finished yet; None if nothing is being recorded."""

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        """``(minute, digest)`` of the non-empty minutes in ``[start, stop)``, ascending."""

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        """``(second, digest)`` of the minute's non-empty seconds, ascending."""

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        """The digest of a second and its canonical text compressed with zlib; None if it has no samples."""

    def samples(self, second: int, ranges: Sequence[tuple[int, int]]) -> str:
        """The canonical text of the second's samples in half-open, ascending microsecond ranges."""


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """Where to connect, as which device, and with which timeouts."""

    host: str
    port: int
    device_id: str
    key: bytes = field(default=b"", repr=False)
    """The device's key; empty if the server asks for none."""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """The name that the server's certificate must have, if it is not ``host``."""
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    distort: Callable[[Answer], Answer] = field(default=lambda answer: answer)
    """For injecting faults: returns what is sent instead of an answer."""


def answer(request: AskMinutes | AskSeconds | AskSamples, recorded: Recorded) -> Answer:
    """The answer to one request of the server."""
    if isinstance(request, AskMinutes):
        # Read this first, so that a minute that ends meanwhile is still reported as unfinished.
        through = recorded.through()
        digests = recorded.minute_digests(request.start, request.stop)
        return Minutes(request.id, tuple(digests), through)
    if isinstance(request, AskSeconds):
        return Seconds(request.id, tuple(recorded.second_digests(request.minute)))
    if request.ranges is not None:
        return samples_answer(request, recorded.samples(request.second, request.ranges), packed=True)
    return _whole_second(request, recorded)


def _whole_second(request: AskSamples, recorded: Recorded) -> Samples:
    """The whole second, compressed as it is in the store."""
    found = recorded.packed(request.second)
    if found is None:
        return samples_answer(request, "", packed=True)
    digest, payload = found
    return Samples(request.id, request.second, digest.count, digest.md5, True, len(payload), payload)


class SyncAnswerer:
    """Stays connected and answers requests, in its own thread."""

    def __init__(self, settings: SyncSettings, recorded: Recorded) -> None:
        self._settings, self._recorded = settings, recorded
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sync {settings.device_id}", daemon=True)
        self._socket: socket.socket | None = None
        self.wait_s = settings.first_wait_s
        """How long it waits before it connects again, plus or minus half."""
        self._progressed = False
        """Whether the connection has made progress: a round has ended, or it has answered for long."""
        self.verified: Verified | None = None
        """The result of the last round; None before the first one."""
        self.rounds = 0
        self.samples_sent = 0

    def start(self) -> None:
        """Begin to connect, without waiting."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread."""
        self._stopping.set()
        self.cut()
        self._thread.join()

    def cut(self) -> None:
        """Break the connection, as a network failure does; it is opened again."""
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._progressed = False
            try:
                self._one_connection()
            except (OSError, ProtocolError) as error:
                level = logging.DEBUG if self._stopping.is_set() else logging.INFO
                _log.log(level, "not connected: %s", error, extra={"device": self._settings.device_id})
            if self._progressed:
                self.wait_s = self._settings.first_wait_s
            self._stopping.wait(self.wait_s * random.uniform(0.5, 1.5))  # noqa: S311 -- no secret
            self.wait_s = min(2 * self.wait_s, self._settings.longest_wait_s)

    def _one_connection(self) -> None:
        """Connect and answer until the connection ends."""
        with self._connect() as connected:
            session, begun = Session(Side.DEVICE), time.monotonic()
            session.send(Hello(self._settings.device_id, self._recorded.oldest()))
            while not session.ended:
                connected.sendall(session.data_to_send())
                self._receive(connected, session)
                for event in session.events_received():
                    self._take(session, event)
                    if (
                        isinstance(event, Verified)
                        or time.monotonic() - begun > self._settings.longest_wait_s
                    ):
                        self._progressed = True
                    # Sent one by one, so that the server can process one while the next is prepared.
                    connected.sendall(session.data_to_send())
            with suppress(OSError):
                connected.sendall(session.data_to_send())
        self._socket = None

    def _connect(self) -> socket.socket:
        settings = self._settings
        connected = socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings.tls is not None:
            name = settings.server_name or settings.host
            connected = settings.tls.wrap_socket(connected, server_hostname=name)
        connected.settimeout(SILENCE_S)
        self._socket = connected
        if self._stopping.is_set():
            self.cut()
        return connected

    @staticmethod
    def _receive(connected: socket.socket, session: Session) -> None:
        try:
            data = connected.recv(_READ_BYTES)
        except TimeoutError:
            session.send(Ping())  # LocalProtocolError before the welcome: the server is silent
            connected.sendall(session.data_to_send())
            data = connected.recv(_READ_BYTES)
        if data:
            session.receive_data(data)
        else:
            session.receive_eof()

    def _is_progress(self, event: Event, after_s: float) -> bool:
        asked = isinstance(event, AskMinutes | AskSeconds | AskSamples)
        return isinstance(event, Verified) or (asked and after_s > self._settings.longest_wait_s)

    def _take(self, session: Session, event: Event) -> None:
        where = {"device": self._settings.device_id}
        if isinstance(event, AskMinutes | AskSeconds | AskSamples):
            reply = self._settings.distort(answer(event, self._recorded))
            self.samples_sent += reply.count if isinstance(reply, Samples) else 0
            session.send(reply)
        elif isinstance(event, Challenge):
            session.send(Auth(mac_of(self._settings.key, event.nonce, self._settings.device_id)))
        elif isinstance(event, Welcome):
            if self._settings.key and session.challenge is None:
                session.fail("not_challenged", "this device has a key, and the server did not ask for it")
        elif isinstance(event, Verified):
            self.verified, self.rounds = event, self.rounds + 1
            _log.info(
                "verified through %s: %d minutes compared, %d seconds repaired, %d minutes unresolved",
                minute_text(event.through),
                event.compared,
                event.repaired,
                event.unresolved,
                extra=where,
            )
        elif isinstance(event, Ended):
            level = logging.INFO if event.code == "closed" else logging.WARNING
            _log.log(level, "connection ended: %s: %s", event.code, event.message, extra=where)
