"""One synchronization connection without I/O, for either side: takes bytes, returns events and bytes.

A shell calls ``receive_data``, ``receive_eof``, ``events_received`` and ``data_to_send``, and ``send`` for
its own frames. Rules:

1. Both sides keep the same state (and unanswered requests) with the same code, which treats sent and received
   frames alike.
2. A frame is checked by its line alone, before any of its payload is awaited: a peer cannot make this side
   hold a payload that was not requested.
3. An illegal frame from the peer does not change the state. It queues an ``error`` with the reason in
   ``data_to_send``, ends the session and is reported as ``Ended``. What follows is not read.
4. An illegal step of this side raises LocalProtocolError and changes nothing.
5. At most WINDOW requests are unanswered; answers may arrive in any order, each exactly once. A ``pong`` must
   answer an open ``ping``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ec_server.synchronization.frame_table import State, next_state
from ec_server.synchronization.frames import (
    Answer,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Challenge,
    Error,
    Frame,
    Hello,
    Minutes,
    Ping,
    Pong,
    Request,
    Samples,
    Seconds,
    Side,
)
from ec_server.synchronization.wire import FrameBuffer, decode, encode, payload_length, with_payload
from utilities.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from utilities.utc import MINUTE_S, minute_text, second_text

WINDOW = 4
"""How many requests may be unanswered at once."""

_ANSWERS: Mapping[type, type] = {AskMinutes: Minutes, AskSeconds: Seconds, AskSamples: Samples}


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over and must be closed, after sending what ``data_to_send`` still returns."""

    code: str
    """``closed`` for an orderly end; else the code of the ``error`` frame, sent or received."""
    message: str
    by_peer: bool
    """True if the peer closed or sent ``error``; False if it violated the protocol, or this side ended it."""


Event = Frame | Ended


class Session:
    """One side of a connection; not thread-safe."""

    def __init__(self, side: Side, *, hold_payloads: bool = False) -> None:
        """``hold_payloads``: after its line, each payload waits for ``release_payload``."""
        self.side = side
        self._hold_payloads, self._released = hold_payloads, False
        self.state = State.OPENED
        self.hello: Hello | None = None
        self.challenge: Challenge | None = None
        self.ended = False
        self.is_behind = False
        """Whether complete frames may have arrived that were not processed yet."""
        self._unanswered: dict[int, Request] = {}
        self._open_pings = dict.fromkeys(Side, 0)
        """Open pings by their sender."""
        self._buffer = FrameBuffer()
        self._headed: Frame | None = None
        self._events: list[Event] = []
        self._outgoing: list[bytes] = []

    @property
    def unanswered(self) -> Mapping[int, Request]:
        """The unanswered requests, oldest first."""
        return MappingProxyType(self._unanswered)

    @property
    def payload_expected(self) -> int:
        """Length of the payload that is arriving; 0 if none is."""
        return payload_length(self._headed) if self._headed is not None else 0

    def receive_data(self, data: bytes, most_frames: int | None = None) -> None:
        """Take bytes from the peer. Never raises because of their content; see ``Ended``.

        After ``most_frames``, the rest stays buffered (``is_behind``) for a later call with ``b""``.
        """
        if self.ended:
            return
        self._buffer.append(data)
        taken = 0
        try:
            while not self.ended and (frame := self._next_frame()) is not None:
                self._record(self.side.other, frame, RemoteProtocolError)
                self._take(frame)
                taken += 1
                if taken == most_frames:
                    break
        except RemoteProtocolError as error:
            self.fail(error.code, str(error))
        self.is_behind = not self.ended and taken == most_frames

    def release_payload(self) -> None:
        """Accept the announced payload; what has arrived of it is processed by the next ``receive_data``."""
        self._released = self.is_behind = True

    def receive_eof(self) -> None:
        """Note that the peer has closed its side."""
        if not self.ended:
            cut = len(self._buffer) > 0 or self._headed is not None
            code, message = ("cut", "the peer closed in mid-frame") if cut else ("closed", "the peer closed")
            self._end(Ended(code, message, by_peer=True))

    def events_received(self) -> list[Event]:
        """The frames received since the last call; ``Ended`` is the last event ever."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """The bytes to send that were queued since the last call."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def send(self, frame: Frame) -> None:
        """Queue a frame to send.

        Raises LocalProtocolError, and changes nothing, if it is not allowed now.
        """
        if self.ended:
            raise LocalProtocolError("ended", "the connection has ended")
        try:
            line = encode(frame)
        except ValueError as error:
            raise LocalProtocolError("line_too_long", str(error)) from error
        self._record(self.side, frame, LocalProtocolError)
        self._outgoing.append(line)

    def fail(self, code: str, message: str) -> None:
        """End the connection with an ``error`` frame; the state is kept for diagnosis."""
        if not self.ended:
            self._outgoing.append(encode(Error(code, message)))
            self._end(Ended(code, message, by_peer=False))

    # --- the state, the same on both sides ------------------------------------------------

    def _next_frame(self) -> Frame | None:
        if self._headed is None:
            line = self._buffer.take_line()
            if line is None:
                return None
            frame = decode(self.side.other, line)
            self._check(self.side.other, frame, RemoteProtocolError)
            self._headed = frame
        if payload_length(self._headed) and self._hold_payloads and not self._released:
            return None
        payload = self._buffer.take(payload_length(self._headed))
        if payload is None:
            return None
        frame, self._headed, self._released = with_payload(self._headed, payload), None, False
        return frame

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Error):
            self._end(Ended(frame.code, frame.message, by_peer=True))
            return
        if isinstance(frame, Ping):
            self.send(Pong())
        self._events.append(frame)

    def _check(self, sender: Side, frame: Frame, broken: type[ProtocolError]) -> State:
        following = next_state(self.state, sender, frame)
        if following is None:
            name = type(frame).__name__
            raise broken("not_allowed_now", f"a {sender.value} sends no {name} in state {self.state.value}")
        if isinstance(frame, Request):
            if frame.id in self._unanswered or len(self._unanswered) >= WINDOW:
                raise broken("not_allowed_now", f"request {frame.id}: id in use, or {WINDOW} unanswered")
        elif isinstance(frame, Answer):
            _check_answer(self._unanswered.get(frame.id), frame, broken)
        elif isinstance(frame, Pong) and not self._open_pings[sender.other]:
            raise broken("not_asked_for", "a pong that answers no ping")
        return following

    def _record(self, sender: Side, frame: Frame, broken: type[ProtocolError]) -> None:
        self.state = self._check(sender, frame, broken)
        if isinstance(frame, Request):
            self._unanswered[frame.id] = frame
        elif isinstance(frame, Answer):
            del self._unanswered[frame.id]
        elif isinstance(frame, Ping):
            self._open_pings[sender] += 1
        elif isinstance(frame, Pong):
            self._open_pings[sender.other] -= 1
        elif isinstance(frame, Hello):
            self.hello = frame
        elif isinstance(frame, Challenge):
            self.challenge = frame

    def _end(self, ended: Ended) -> None:
        self.ended, self.is_behind = True, False
        self._events.append(ended)
        self._buffer = FrameBuffer()


def _check_answer(asked: Request | None, answer: Answer, broken: type[ProtocolError]) -> None:
    if asked is None or type(answer) is not _ANSWERS[type(asked)]:
        raise broken("not_asked_for", f"an answer to request {answer.id}, which was not asked")
    if isinstance(asked, AskSamples) and isinstance(answer, Samples):
        if answer.second != asked.second:
            raise broken("not_asked_for", f"samples of {second_text(answer.second)} were not asked for")
    elif isinstance(asked, AskMinutes) and isinstance(answer, Minutes):
        _check_span(answer.digests, asked.start, asked.stop, broken)
    elif isinstance(asked, AskSeconds) and isinstance(answer, Seconds):
        _check_span(answer.digests, asked.minute, asked.minute + MINUTE_S, broken)


def _check_span(
    digests: tuple[tuple[int, object], ...], start: int, stop: int, broken: type[ProtocolError]
) -> None:
    if digests and not (start <= digests[0][0] and digests[-1][0] < stop):
        span = f"[{minute_text(start)}, {minute_text(stop)})"
        raise broken("not_asked_for", f"digests outside of {span} were not asked for")
