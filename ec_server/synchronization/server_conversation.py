"""The server side of one connection without I/O: identification, questions, deadlines.

It takes bytes and the time, and returns bytes and events. Its shell (peer.py) only moves bytes and calls
``tick`` about once a second. Rules:

1. Every wait has a deadline: the handshake, each answer, each ``pong``. ``now`` is a monotonic clock, in
   seconds.
2. A device is identified once it was admitted: named in ``hello``, allowed by the ``Gate``, and with proof of
   its key if it has one. Before that, only ``hello`` and ``auth`` are accepted.
3. A violation of the protocol ends the connection with ``error``. Frames before it in the same bytes are not
   processed any more.
4. The time in which the shell does not read because memory for payloads is short is not counted as a delay
   of the peer: ``pause`` and ``resume`` stop the clock for answers.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

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
from utilities.model import RejectReason

HANDSHAKE_S = 10.0
ANSWER_S = 30.0
SLOWEST_BYTES_S = 8192
"""A payload may take ANSWER_S plus the time at this rate."""
IDLE_S = 60.0
"""After this long without a byte, a ping is sent."""
PONG_S = 30.0
FLOOD_PINGS, FLOOD_S = 100, 10.0
FRAMES_AT_ONCE = 16
"""The most frames of one connection that are processed before it is the turn of others."""
PRESSED_S = 10.0
"""A payload must arrive within this time while others wait for memory."""
MEMORY_WAIT_S = 30.0
"""How long a connection waits for memory before it is ended, to try again later."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides which devices may connect from this connection's address."""

    refusal: Callable[[str], RejectReason | None]
    """Why the device may not connect; None if it may."""
    key: Callable[[str], bytes]
    """The device's key; empty if it has none."""
    interval_s: float
    """The interval between rounds, for ``welcome``."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The device was identified and welcomed."""

    device_id: str
    oldest: int | None
    """The first minute that it offers."""


Happening = Identified | Answer | Ended


class ServerConversation:
    """See the module's rules; not thread-safe."""

    def __init__(
        self, gate: Gate, now: float, new_nonce: Callable[[], str] = lambda: secrets.token_hex(16)
    ) -> None:
        self._gate, self._new_nonce = gate, new_nonce
        self._session = Session(Side.SERVER, hold_payloads=True)
        self.device_id = ""
        """The id from ``hello``; not to be trusted before the device is identified."""
        self.identified = False
        self._happened: list[Happening] = []
        self._last_id = 0
        self._begun = self._last_byte = self._progress = self._pings_since = now
        self._paused: float | None = None
        self._pinged: float | None = None
        self._pings = 0

    @property
    def ended(self) -> bool:
        """Whether the connection is over; ``data_to_send`` may still hold the ``error``."""
        return self._session.ended

    @property
    def is_behind(self) -> bool:
        """Whether received frames are still to be processed: call ``receive_data`` again, with ``b""``."""
        return self._session.is_behind

    @property
    def payload_expected(self) -> int:
        """Length of the payload that is arriving; 0 if none is. It waits for ``release_payload``."""
        return self._session.payload_expected

    def release_payload(self) -> None:
        """Accept the announced payload, as there is memory for it."""
        self._session.release_payload()

    # --- receiving ------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the device."""
        self._last_byte, self._pinged = now, None
        self._session.receive_data(data, FRAMES_AT_ONCE)
        self._take_events(now)

    def receive_eof(self, now: float) -> None:
        """Note that the device has closed its side."""
        self._session.receive_eof()
        self._take_events(now)

    def _take_events(self, now: float) -> None:
        for event in self._session.events_received():
            if isinstance(event, Ended) or not self._session.ended:
                self._take(event, now)
        if self._session.ended:  # by what was just taken
            self._happened += [e for e in self._session.events_received() if isinstance(e, Ended)]

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Minutes | Seconds | Samples):
            self._progress = now
            self._happened.append(event)
        elif isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, Auth):
            self._check_proof(event)
        elif isinstance(event, Ping):
            self._count_ping(now)
        elif isinstance(event, Ended):
            self._happened.append(event)

    def _count_ping(self, now: float) -> None:
        if now - self._pings_since > FLOOD_S:
            self._pings, self._pings_since = 0, now
        self._pings += 1
        if self._pings > FLOOD_PINGS:
            self._session.fail("flood", f"more than {FLOOD_PINGS} pings in {FLOOD_S:g} s")

    # --- identification -------------------------------------------------------------------

    def _greet(self, hello: Hello) -> None:
        self.device_id = hello.device
        reason = self._gate.refusal(hello.device)
        if reason is not None:
            self._session.fail(
                reason.value, f"device {hello.device} may not connect from here: {reason.value}"
            )
        elif self._gate.key(hello.device):
            self._session.send(Challenge(self._new_nonce()))
        else:
            self._welcome()

    def _check_proof(self, auth: Auth) -> None:
        challenge = self._session.challenge
        assert challenge is not None, "the frame table lets no auth come before a challenge"
        expected = mac_of(self._gate.key(self.device_id), challenge.nonce, self.device_id)
        if hmac.compare_digest(expected, auth.mac.lower()):
            self._welcome()
        else:
            self._session.fail("wrong_key", f"the proof does not match the key of device {self.device_id}")

    def _welcome(self) -> None:
        hello = self._session.hello
        assert hello is not None, "the frame table lets no welcome come before a hello"
        self._session.send(Welcome(self._gate.interval_s))
        self.identified = True
        self._happened.append(Identified(self.device_id, hello.oldest))

    # --- deadlines ------------------------------------------------------------------------

    def tick(self, now: float, memory_is_short: bool = False) -> None:
        """Check every deadline; called about once a second.

        ``memory_is_short``: other connections wait for the memory of the payload that is arriving.
        """
        if self._session.ended:
            return
        if self._paused is not None:
            if now - self._paused > MEMORY_WAIT_S:
                self.fail("busy", "no memory for the payload; come back later")
        elif not self.identified:
            if now - self._begun > HANDSHAKE_S:
                self.fail("timeout", f"no complete handshake within {HANDSHAKE_S:g} s")
        elif self._session.unanswered:
            self._tick_answer(now, memory_is_short)
        elif self._pinged is not None:
            if now - self._pinged > PONG_S:
                self.fail("timeout", f"no pong within {PONG_S:g} s")
        elif now - self._last_byte > IDLE_S:
            self._pinged = now
            self._session.send(Ping())

    def _tick_answer(self, now: float, memory_is_short: bool) -> None:
        payload = self._session.payload_expected
        if payload and memory_is_short and now - self._progress > PRESSED_S:
            self.fail("busy", f"others wait for memory, and the payload took over {PRESSED_S:g} s")
            return
        patience_s = ANSWER_S + payload / SLOWEST_BYTES_S
        if now - self._progress > patience_s:
            self.fail("timeout", f"no answer within {patience_s:.0f} s")

    def pause(self, now: float) -> None:
        """The shell stops reading, as memory is short."""
        self._paused = now

    def resume(self, now: float) -> None:
        """The shell reads again."""
        if self._paused is not None:
            self._progress += now - self._paused
            self._last_byte, self._paused = now, None

    # --- sending --------------------------------------------------------------------------

    def ask(self, request: Request, now: float) -> int:
        """Send a request; returns its id. LocalProtocolError if too many are open or the connection ended."""
        self._last_id += 1
        if not self._session.unanswered:
            self._progress = now
        self._session.send(replace(request, id=self._last_id))
        return self._last_id

    def end_round(self, verified: Verified) -> None:
        """Tell the device the result of a round."""
        self._session.send(verified)

    def fail(self, code: str, message: str) -> None:
        """End the connection with an ``error``."""
        self._session.fail(code, message)
        self._happened += [e for e in self._session.events_received() if isinstance(e, Ended)]

    def happenings(self) -> list[Happening]:
        """The events since the last call; ``Ended`` is the last one ever."""
        happened, self._happened = self._happened, []
        return happened

    def data_to_send(self) -> bytes:
        """The bytes to send that were queued since the last call."""
        return self._session.data_to_send()
