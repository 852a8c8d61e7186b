"""One synchronization connection without I/O: bytes in, events and bytes out, for either side.

Four verbs, as any shell needs: ``receive_data``, ``receive_eof``, ``events_received``,
``data_to_send``; and ``send`` for a frame of one's own. Rules:

1. Both sides keep the same record (state, unanswered requests) by the same code: a frame counts
   alike whether it was sent or received.
2. A frame is judged by its line alone, before waiting for any of its payload: no peer makes the
   peer hold a payload that it did not ask for.
3. An illegal frame from the peer leaves state and record as they were, puts a reasoned ``error``
   into ``data_to_send``, ends the session and comes out as ``Ended``. What follows is not read.
4. An illegal step of one's own raises LocalProtocolError and changes nothing.
5. At most WINDOW requests are unanswered; answers may come in any order, each exactly once. A
   ``pong`` answers a ``ping`` that is open.
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
    """The connection is over and must be closed, after what ``data_to_send`` still holds was sent."""

    code: str
    """``closed`` for an orderly end; else the reason of the ``error`` frame, sent or received."""
    message: str
    by_peer: bool
    """True: the peer closed or sent ``error``. False: it broke a rule, or this side ended it."""


Event = Frame | Ended


class Session:
    """One connection as one side sees it; not thread-safe."""

    def __init__(self, side: Side, *, hold_payloads: bool = False) -> None:
        """``hold_payloads``: each payload waits, once its line has come, for ``release_payload``."""
        self.side = side
        self._hold_payloads, self._released = hold_payloads, False
        self.state = State.OPENED
        self.hello: Hello | None = None
        self.challenge: Challenge | None = None
        self.ended = False
        self.is_behind = False
        """Whether whole frames may have come that were not looked at yet."""
        self._unanswered: dict[int, Request] = {}
        self._open_pings = dict.fromkeys(Side, 0)
        """By who sent them."""
        self._buffer = FrameBuffer()
        self._headed: Frame | None = None
        self._events: list[Event] = []
        self._outgoing: list[bytes] = []

    @property
    def unanswered(self) -> Mapping[int, Request]:
        """The requests that still lack an answer, oldest first."""
        return MappingProxyType(self._unanswered)

    @property
    def payload_expected(self) -> int:
        """Bytes of the payload that is under way; 0 if none is."""
        return payload_length(self._headed) if self._headed is not None else 0

    def receive_data(self, data: bytes, most_frames: int | None = None) -> None:
        """Take bytes from the peer. Never raises for what they are; see ``Ended``.

        After ``most_frames`` the rest stays as it came (``is_behind``), for a later call with ``b""``.
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
        """Let the payload under way come; what is there already is taken by the next ``receive_data``."""
        self._released = self.is_behind = True

    def receive_eof(self) -> None:
        """Take note that the peer closed its side."""
        if not self.ended:
            cut = len(self._buffer) > 0 or self._headed is not None
            code, message = ("cut", "the peer closed in mid-frame") if cut else ("closed", "the peer closed")
            self._end(Ended(code, message, by_peer=True))

    def events_received(self) -> list[Event]:
        """The frames that came since the last call, and ``Ended`` as the last one ever."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """The bytes to send since the last call."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def send(self, frame: Frame) -> None:
        """Queue a frame of one's own.

        Raises LocalProtocolError, with nothing changed, where it is not allowed now.
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

    # --- the one record of both sides -----------------------------------------------------

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
