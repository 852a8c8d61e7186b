"""A cheap meter: records seconds of the past at a steady pace, sends them, answers rounds from its ledger.

It records far faster than real time, an hour ago, so that its minutes are closed and a round compares them
at once. It goes on recording whatever the network does; over TCP a message goes out once, over UDP again
until it is answered, as SIP says. Now and then it sends a message that must be rejected.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from system.faults.ledger import Ledger, Sent
from system.faults.plan import MeterPlan
from system.faults.relay import LOOPBACK
from system.sip_peer import request

from reference_client.sync_answerer import SyncAnswerer, SyncSettings

PACE = 25
"""Recorded seconds per second."""
MESSAGES_A_SECOND = 3
SAMPLES = 12
_GARBAGE_EVERY = 29
_WINDOW = 24
_MOST_WAITING = 400
_RESEND_S = (0.3, 0.6, 1.2, 2.4)
_GIVE_UP_S = 4.0
_ANSWER = re.compile(rb"SIP/2\.0 (\d{3})[^\r]*\r\n(?:[^\r]+\r\n)*?[Vv][^\r]*z9hG4bKm(\d+)-")


@dataclass(slots=True)
class Tally:
    """What became of the messages; numbers are those of ``Meter.sent``."""

    transmitted: int = 0
    """Messages handed to the network, repetitions included."""
    garbage: int = 0
    """Of these, repetitions included, such that must be rejected."""
    attempted: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    garbage_answered: int = 0


@dataclass(slots=True)
class _Open:
    """A message that is not answered yet."""

    data: bytes
    first_s: float
    again_s: float
    tries: int = 0


class Meter:
    """``start``, then ``end_recording``, then ``stop``; ``tally`` and ``sent`` are whole after that."""

    def __init__(self, name: str, plan: MeterPlan, first_second: int, sip_port: int, sync_port: int) -> None:
        self.ledger = Ledger(name, first_second)
        self.sent: list[Sent] = []
        self.tally = Tally()
        self.answerer: SyncAnswerer | None = None
        self._plan, self._sip_port, self._sync_port = plan, sip_port, sync_port
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._open: dict[int, _Open] = {}
        self._socket: socket.socket | None = None
        self._unwritten, self._unread = b"", b""
        self._connect_at_s = 0.0
        self._recording, self._running = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Record and send."""
        self._recording.set()
        self._running.set()
        self._thread.start()

    def end_recording(self) -> None:
        """Record no more; what waits is still sent."""
        self._recording.clear()

    @property
    def has_sent_all(self) -> bool:
        """Whether nothing waits for its turn or its answer."""
        return not self._recording.is_set() and not self._waiting and not self._open

    def stop(self) -> None:
        """End sending and synchronizing."""
        self._running.clear()
        self._thread.join(10)
        self.disconnect()
        if self._socket is not None:
            self._socket.close()

    def synchronize(self) -> None:
        """Connect for rounds, with a connection that is new."""
        self.disconnect()
        settings = SyncSettings(
            LOOPBACK, self._sync_port, self.ledger.device_id, first_wait_s=0.1, longest_wait_s=0.5
        )
        self.answerer = SyncAnswerer(settings, self.ledger)
        self.answerer.start()

    def disconnect(self) -> None:
        """Connect no more."""
        if self.answerer is not None:
            self.answerer.stop()
            self.answerer = None

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        begun_s = time.monotonic()
        while self._running.is_set():
            now_s = time.monotonic()
            if self._recording.is_set():
                self._record(int((now_s - begun_s) * PACE * MESSAGES_A_SECOND))
            elif self.ledger.through() is not None:
                self.ledger.finish()
            with suppress(OSError):
                self._send(now_s)
                self._receive()
            self._expire(now_s)

    def _record(self, until: int) -> None:
        for number in range(len(self.sent), until):
            seconds, part = divmod(number, MESSAGES_A_SECOND)
            sent = self._message(number, self.ledger.first_second + seconds, part)
            self.ledger.record(sent)
            self.sent.append(sent)
            self._waiting.append((number, self._body(sent)))
            if number % _GARBAGE_EVERY == 0:
                self._waiting.append((-1 - number, f"{self.ledger.device_id}|now|1,2,3".encode()))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()  # it has fallen behind; the rounds bring it

    def _message(self, number: int, second: int, part: int) -> Sent:
        first = part * (1_000_000 // MESSAGES_A_SECOND)
        values = (float(number * SAMPLES + i) / 8 for i in range(SAMPLES))  # each its own, exact as float32
        return Sent(second, tuple((first + i * 20_000 + 7, f"{v:.9g}") for i, v in enumerate(values)))

    def _body(self, sent: Sent) -> bytes:
        samples = sent.text.encode()
        if self._plan.binary:
            samples = b";".join(struct.pack("<if", us, float(value)) for us, value in sent.samples)
        return b"%b|%d|%b||" % (self.ledger.device_id.encode(), sent.second, samples)

    def _send(self, now_s: float) -> None:
        if self._socket is None and not self._connect(now_s):
            return
        while self._waiting and len(self._open) < _WINDOW and not self._unwritten:
            number, body = self._waiting.popleft()
            token = number if number >= 0 else 10**9 - number
            data = request(
                body=body, transport=self._plan.transport.upper(), local=self._local, call_id=f"m{token}-"
            )
            self._open[token] = _Open(data, now_s, now_s + _RESEND_S[0])
            self._transmit(token, data)
        if self._unwritten:
            self._write()

    def _transmit(self, token: int, data: bytes) -> None:
        self.tally.transmitted += 1
        if token >= 10**9:
            self.tally.garbage += 1
        else:
            self.tally.attempted.add(token)
        if self._plan.transport == "udp":
            assert self._socket is not None
            self._socket.send(data)
        else:
            self._unwritten += data

    def _write(self) -> None:
        assert self._socket is not None
        try:
            self._unwritten = self._unwritten[self._socket.send(self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:
            self._break()

    def _connect(self, now_s: float) -> bool:
        if now_s < self._connect_at_s:
            time.sleep(0.01)
            return False
        kind = socket.SOCK_DGRAM if self._plan.transport == "udp" else socket.SOCK_STREAM
        made = socket.socket(socket.AF_INET, kind)
        made.settimeout(1)
        try:
            made.connect((LOOPBACK, self._sip_port))
        except OSError:
            made.close()
            self._connect_at_s = now_s + 0.1
            return False
        made.setblocking(False)
        self._socket, self._local = made, "{}:{}".format(*made.getsockname())
        return True

    def _receive(self) -> None:
        if self._socket is None:
            return
        readable, _, _ = select.select([self._socket], [], [], 0.01)
        if not readable:
            return
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._plan.transport == "tcp":
                self._break()
            return
        whole, end, self._unread = (self._unread + data).rpartition(b"\r\n\r\n")
        for status, token in _ANSWER.findall(whole + end):
            self._answered(int(status), int(token))

    def _answered(self, status: int, token: int) -> None:
        if status == 200 and self._open.pop(token, None):
            if token >= 10**9:
                self.tally.garbage_answered += 1
            else:
                self.tally.answered.add(token)

    def _expire(self, now_s: float) -> None:
        old = [token for token, one in self._open.items() if now_s - one.first_s > _GIVE_UP_S]
        for token in old:
            del self._open[token]
        if old and self._plan.transport == "tcp":
            self._break()  # a connection that does not answer is opened again
        elif self._plan.transport == "udp" and self._socket is not None:
            for token, one in self._open.items():
                if now_s >= one.again_s and one.tries < len(_RESEND_S) - 1:
                    one.tries += 1
                    one.again_s = now_s + _RESEND_S[one.tries]
                    with suppress(OSError):
                        self._transmit(token, one.data)

    def _break(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._unwritten, self._unread = None, b"", b""
        self._open.clear()
        self._connect_at_s = time.monotonic() + 0.05
