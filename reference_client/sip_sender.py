"""Sends what meters recorded, in real time: one message per millisecond and meter, as answers allow.

Rules:

1. Recording never waits for sending, unless the pace is "as fast as possible". Messages that cannot be sent
   in time are skipped and counted; the synchronization recovers them.
2. At most ``window`` messages are unanswered, and at most ten seconds of messages wait.
3. After a message without an answer (408, 503), nothing is sent for a second, so that a server that is down
   is not flooded.
"""

from __future__ import annotations

import math
import queue
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from utilities.sip_client import SipClient

_CHUNK = 32
_QUEUED_SECONDS = 10
_PAUSE_S = 1.0
_POLL_MS = 3
_NO_ANSWER = (408, 503)


class Outgoing(NamedTuple):
    """A message of one of the process's meters."""

    due_us: int
    account: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """The meters' time: ``start`` at this machine's ``begin``, then ``speed`` times real time."""

    start: int
    """Epoch second of the first sample."""
    begin: float
    """``time.monotonic()`` at that time."""
    speed: float
    """1 is real time, infinity is as fast as possible."""

    def at(self, epoch_us: int) -> float:
        """``time.monotonic()`` when the meters' clock shows ``epoch_us``; ``begin`` for infinite speed."""
        return self.begin + (epoch_us / 1e6 - self.start) / self.speed

    @property
    def waits(self) -> bool:
        """Whether the pace depends on time at all."""
        return not math.isinf(self.speed)


class SipSender:
    """Used by the recording thread (``offer``) and the sending thread (everything else)."""

    def __init__(self, client: SipClient, pace: Pace, window: int, delay_s: float) -> None:
        """``delay_s``: how long after its own time a message is sent, in this machine's time.

        At least a second of the meters' time plus the time to record it, as a second is recorded completely
        before any of it is sent.
        """
        self._client, self._pace, self._window, self._delay_s = client, pace, window, delay_s
        self._seconds: queue.Queue[Sequence[Outgoing]] = queue.Queue(_QUEUED_SECONDS)
        self._current: deque[Outgoing] = deque()
        self._paused_until = 0.0
        self._unanswered_before = 0
        self._skipped_waiting = 0
        self._skipped_seconds = 0

    @property
    def skipped(self) -> int:
        """Number of messages that were not sent, as there was no room in time."""
        return self._skipped_waiting + self._skipped_seconds

    @property
    def idle(self) -> bool:
        """Whether everything offered was sent or skipped."""
        return not self._current and self._seconds.empty()

    def offer(self, messages: Sequence[Outgoing], wait_s: float) -> bool:
        """Queue the messages of a second, ascending in time. At full speed, False if there is no room yet."""
        waits = self._pace.waits
        try:
            self._seconds.put(messages, block=not waits, timeout=wait_s)
        except queue.Full:
            if not waits:
                return False
            self._skipped_seconds += len(messages)
        return True

    def step(self, now: float) -> None:
        """Send what is due, then let the stack work for some milliseconds. Call this in a loop."""
        self._look_for_silence(now)
        sent = self._send_due(now)
        self._client.poll(0 if sent == _CHUNK else _POLL_MS)

    def behind_s(self, now: float) -> float:
        """How late the next message is."""
        return max(0.0, now - self._due(self._current[0])) if self._current and self._pace.waits else 0.0

    def _due(self, message: Outgoing) -> float:
        return self._pace.at(message.due_us) + self._delay_s

    def _send_due(self, now: float) -> int:
        sent = 0
        room = min(_CHUNK, self._window - self._client.waiting)
        paused = now < self._paused_until
        while sent < room and self._next_is_due(now):
            if paused:
                if not self._pace.waits:
                    break
                self._current.popleft()
                self._skipped_waiting += 1
                continue
            message = self._current.popleft()
            self._client.send(message.account, message.body)
            sent += 1
        return sent

    def _next_is_due(self, now: float) -> bool:
        if not self._current:
            try:
                self._current.extend(self._seconds.get_nowait())
            except queue.Empty:
                return False
        return bool(self._current) and (not self._pace.waits or self._due(self._current[0]) <= now)

    def _look_for_silence(self, now: float) -> None:
        unanswered = sum(self._client.failed[status] for status in _NO_ANSWER)
        if unanswered > self._unanswered_before:
            self._paused_until = now + _PAUSE_S
        self._unanswered_before = unanswered
