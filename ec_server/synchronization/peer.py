"""One device's connection: who it is, its rounds, and the moment at which it has been silent too long.

The protocol is session.py's, the round round.py's; this file moves bytes and waits. Rules:

1. Whatever a peer does costs its own connection and nothing else: every broken rule ends in
   ``Session.fail``, every wait has a deadline (``tick``), and what is received or unsent is bounded by
   the frames' limits, the window of requests and the pings that are allowed.
2. Nobody replaces a device's connection before it has proven the device's key.
3. An ``error`` must reach the peer although it may still be sending: the writing side is closed
   first, and what comes is thrown away for a moment, because closing over unread bytes would reset
   the connection and take the ``error`` with it.

Deadlines are of the monotonic clock, so that a clock that is set back stops nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from ec_server.synchronization.frames import (
    Answer,
    Auth,
    Challenge,
    Hello,
    Minutes,
    Ping,
    Request,
    Samples,
    Seconds,
    Side,
    Verified,
    Welcome,
    mac_of,
)
from ec_server.synchronization.session import Ended, Event, Session
from ec_server.synchronization.steps import Ask, Collect, Steps
from ec_server.synchronization.store_threads import Finished, StoreThreads
from utilities.errors import RemoteProtocolError
from utilities.model import RejectReason

HANDSHAKE_S = 10.0
ANSWER_S = 30.0
SLOWEST_BYTES_S = 8192
"""A payload has ANSWER_S and the time that it takes at this rate."""
IDLE_S = 60.0
"""After so long without a byte the device is pinged."""
PONG_S = 30.0
FLOOD_PINGS, FLOOD_S = 100, 10.0
_READ_BYTES = 1 << 16
_LINGER_S = 1.0

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


class Host(Protocol):
    """What a connection needs of the server."""

    threads: StoreThreads
    interval_s: float
    certificates: bool
    """Whether a device's certificate must carry its id."""

    def admit(self, peer: Peer, device_id: str) -> RejectReason | None:
        """Whether the device may connect from the peer's address."""

    def key(self, device_id: str) -> bytes:
        """The device's key; empty where it has none."""

    def welcomed(self, peer: Peer) -> None:
        """The peer has proven who it is; it replaces the device's former connection."""

    async def serve(self, peer: Peer) -> None:
        """Hold the device's rounds until the connection ends."""

    def count(self, figures: Mapping[str, int]) -> None:
        """Raise figures of the page."""

    def note(self, kind: str, message: str, device_id: str) -> None:
        """Write a line to the log, at a limited rate for each kind."""


class Peer:
    """One connection, from its first byte to its last."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: Host,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader, self._writer, self._host, self._monotonic = reader, writer, host, monotonic
        self._session = Session(Side.SERVER)
        self.ip: str = (writer.get_extra_info("peername") or ("gone",))[0]
        self.device_id = ""
        self.proven = False
        """Whether the peer has shown who it is and was let in."""
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._last_id = 0
        now = monotonic()
        self._begun = self._last_byte = self._progress = self._pings_since = now
        self._pinged: float | None = None
        self._pings = 0
        self._serving: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    @property
    def oldest(self) -> int | None:
        """The first minute that the device offers."""
        return self._session.hello.oldest if self._session.hello else None

    async def run(self) -> None:
        """From the first byte until the connection has ended and is closed."""
        reading = asyncio.create_task(self._read())
        ending = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [task for task in (reading, ending, self._serving) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def end(self, code: str, message: str) -> None:
        """End the connection with an ``error``."""
        self._session.fail(code, message)
        self._take_events()

    def close_orderly(self) -> None:
        """End the connection without one: the server stops."""
        self._over.set()

    def tick(self, now: float) -> None:
        """Look at every deadline; called about once a second."""
        if self._session.ended:
            return
        if not self.proven:
            if now - self._begun > HANDSHAKE_S:
                self.end("timeout", f"no complete handshake within {HANDSHAKE_S:g} s")
        elif self._session.unanswered:
            patience_s = ANSWER_S + self._session.payload_expected / SLOWEST_BYTES_S
            if now - self._progress > patience_s:
                self.end("timeout", f"no answer within {patience_s:.0f} s")
        else:
            self._tick_idle(now)

    def _tick_idle(self, now: float) -> None:
        if self._pinged is not None and now - self._pinged > PONG_S:
            self.end("timeout", f"no pong within {PONG_S:g} s")
        elif self._pinged is None and now - self._last_byte > IDLE_S:
            self._pinged = now
            self._session.send(Ping())
            self._flush()

    # --- what comes -----------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._session.ended:
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._last_byte = self._monotonic()
                self._pinged = None
                self._host.count({"bytes_received": len(data)})
                self._session.receive_data(data)
            else:
                self._session.receive_eof()
            self._take_events()

    def _take_events(self) -> None:
        for event in self._session.events_received():
            # What came before a broken rule, in the same bytes, is not acted on any more.
            if isinstance(event, Ended) or not self._session.ended:
                self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, Minutes | Seconds | Samples):
            self._progress = self._monotonic()
            self._answers[event.id].set_result(event)
        elif isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, Auth):
            self._check_proof(event)
        elif isinstance(event, Ping):
            self._count_ping()
        elif isinstance(event, Ended):
            self._ended(event)

    def _count_ping(self) -> None:
        now = self._monotonic()
        if now - self._pings_since > FLOOD_S:
            self._pings, self._pings_since = 0, now
        self._pings += 1
        if self._pings > FLOOD_PINGS:
            self.end("flood", f"more than {FLOOD_PINGS} pings in {FLOOD_S:g} s")

    def _ended(self, ended: Ended) -> None:
        if not ended.by_peer:
            kind = "protocol_errors" if self.proven else "rejected_connections"
            self._host.count({kind: 1})
        if ended.code != "closed":
            who = "the peer ended" if ended.by_peer else "ended"
            self._host.note(
                ended.code, f"connection from {self.ip} {who}: {ended.code}: {ended.message}", self.device_id
            )
        self._over.set()

    # --- who it is ------------------------------------------------------------------------

    def _greet(self, hello: Hello) -> None:
        self.device_id = hello.device
        reason = self._host.admit(self, hello.device)
        if reason is None and self._host.certificates and self._common_name() != hello.device:
            reason = RejectReason.WRONG_CERTIFICATE
        if reason is not None:
            self.end(reason.value, f"device {hello.device} may not connect from here: {reason.value}")
        elif self._host.key(hello.device):
            self._session.send(Challenge(secrets.token_hex(16)))
        else:
            self._welcome()

    def _common_name(self) -> str:
        certificate = self._writer.get_extra_info("peercert") or {}
        names = [
            value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"
        ]
        return names[0] if len(names) == 1 else ""

    def _check_proof(self, auth: Auth) -> None:
        challenge = self._session.challenge
        assert challenge is not None, "the state table lets no auth come before a challenge"
        expected = mac_of(self._host.key(self.device_id), challenge.nonce, self.device_id)
        if hmac.compare_digest(expected, auth.mac.lower()):
            self._welcome()
        else:
            self.end("wrong_key", f"the proof does not fit the key of device {self.device_id}")

    def _welcome(self) -> None:
        self._session.send(Welcome(self._host.interval_s))
        self.proven = True
        self._host.welcomed(self)
        self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._host.serve(self)
        except RemoteProtocolError as error:
            self.end(error.code, str(error))
        except Exception as error:
            _log.exception("serving the device failed", extra={"device": self.device_id})
            self.end("internal", f"the server failed: {type(error).__name__}")

    # --- rounds ---------------------------------------------------------------------------

    async def perform(self, steps: Steps[_Result]) -> _Result:
        """Carry out the steps of a round with this device; returns what they return.

        Raises StorageError, or RemoteProtocolError where the device contradicts itself. Cancelled
        when the connection ends.
        """
        # A round that the database broke off may have left questions open.
        await asyncio.gather(*self._answers.values())
        self._answers.clear()
        result: object = None
        try:
            while True:
                turn = await self._host.threads.turn(steps, result)
                for note in turn.notes:
                    self._host.count(note.figures)
                    if note.message:
                        self._host.note(note.kind, note.message, self.device_id)
                command, result = turn.command, None
                if isinstance(command, Finished):
                    return command.value
                if isinstance(command, Ask):
                    result = self._ask(command.request)
                elif isinstance(command, Collect):
                    result = await self._answers[command.id]
                    del self._answers[command.id]
        finally:
            steps.close()

    def send_verified(self, verified: Verified) -> None:
        """End a round."""
        self._session.send(verified)
        self._flush()

    def _ask(self, request: Request) -> int:
        self._last_id += 1
        if not self._session.unanswered:
            self._progress = self._monotonic()
        self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        self._session.send(replace(request, id=self._last_id))
        self._flush()
        return self._last_id

    # --- what goes ------------------------------------------------------------------------

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data and not self._writer.is_closing():
            self._host.count({"bytes_sent": len(data)})
            self._writer.write(data)

    async def _close(self) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_LINGER_S):
                await self._writer.drain()
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self._reader.read(_READ_BYTES):
                    pass
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
