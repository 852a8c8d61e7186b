"""The bounded queue between the SIP thread and the writer: when it is full, the SIP thread waits.

Rules:

1. One thread puts, one takes. What was put is taken, once, in the order it was put.
2. Nothing is dropped: a full queue blocks ``put``, and with it the SIP stack. TCP senders slow down,
   UDP senders send again. Only ``close`` ends such a wait, and ``put`` says so.
3. Cheap a message: a put is one append. Whoever sleeps says first for how many messages, so that
   it is woken once, not for each. Both sides look again after they have said so; that is enough,
   because the interpreter runs one of the two at a time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ec_server.model import RawMessage

_NOBODY = 1 << 62


class IntakeQueue:
    """At most ``capacity`` messages, from one putting thread to one taking thread."""

    def __init__(
        self, capacity: int, on_wait: Callable[[], None] = lambda: None, wait_interval_s: float = 1.0
    ) -> None:
        """``on_wait`` is called by the putting thread, every ``wait_interval_s`` while it waits for room."""
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} messages can take none")
        self.capacity = capacity
        self._on_wait = on_wait
        self._wait_interval_s = wait_interval_s
        self._messages: deque[RawMessage] = deque()
        self._closed = False
        self._wake_taker_at = _NOBODY  # messages at which the taking thread wants to be woken
        self._taker_wakes = threading.Event()
        self._putter_waits = False
        self._room = threading.Event()

    def __len__(self) -> int:
        """Messages that wait to be taken."""
        return len(self._messages)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def put(self, message: RawMessage) -> bool:
        """Append; waits while the queue is full. False: it was closed, the message was not taken."""
        messages = self._messages
        if self._closed or (len(messages) >= self.capacity and not self._wait_for_room()):
            return False
        messages.append(message)
        if len(messages) >= self._wake_taker_at:
            self._wake_taker_at = _NOBODY
            self._taker_wakes.set()
        return True

    def take(self, limit: int, timeout_s: float, gather_s: float = 0.0) -> list[RawMessage]:
        """Up to ``limit`` messages, oldest first; [] where none came within ``timeout_s``.

        After the first message it waits up to ``gather_s`` more for ``limit`` of them, which is
        cheaper for both threads than taking a few at a time. A closed queue is never waited for.
        """
        if self._sleep(1, timeout_s) and gather_s > 0:
            self._sleep(min(limit, self.capacity), gather_s)
        messages = self._messages
        taken = [messages.popleft() for _ in range(min(limit, len(messages)))]
        if self._putter_waits and taken:
            self._room.set()
        return taken

    def close(self) -> None:
        """Take no more; both waits end. What is in the queue can still be taken. Any thread may call."""
        self._closed = True
        self._room.set()
        self._taker_wakes.set()

    def _sleep(self, wanted: int, timeout_s: float) -> bool:
        """Wait for ``wanted`` messages; whether there are any."""
        deadline = time.monotonic() + timeout_s
        while len(self._messages) < wanted and not self._closed:
            self._taker_wakes.clear()
            self._wake_taker_at = wanted
            if len(self._messages) >= wanted or self._closed:
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._taker_wakes.wait(left_s):
                break
        self._wake_taker_at = _NOBODY
        return bool(self._messages)

    def _wait_for_room(self) -> bool:
        self._putter_waits = True
        try:
            while len(self._messages) >= self.capacity:
                self._room.clear()
                if self._closed:
                    return False
                if len(self._messages) >= self.capacity and not self._room.wait(self._wait_interval_s):
                    self._on_wait()
        finally:
            self._putter_waits = False
        return not self._closed
