"""The sockets of the load generator: each sends its share of a plan and tracks its open transactions.

Over UDP, a message is sent again (timer E) until it is answered or given up (timer F). Over TCP, a broken
connection is opened again, and messages that were open on it count as lost. A `Tally` counts the outcomes.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, islice

from reference_client.load_plan import FORMATS, LoadPlan, first_value_bytes, prepared, variant

_CHUNK = 32
_T1_S, _T2_S = 0.5, 4.0
_RECONNECT_S = 0.05


@dataclass(slots=True)
class Tally:
    """The counts of one process."""

    answered: int = 0
    other: Counter[int] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    otherwise: list[int] = field(default_factory=list)
    retransmitted: int = 0
    reconnected: int = 0
    began: float = 0.0
    ended: float = 0.0
    cpu_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("f"))


class _Connection:
    """One socket, its share of the plan, and its open transactions."""

    def __init__(self, plan: LoadPlan, index: int, tally: Tally) -> None:
        self._plan, self._tally = plan, tally
        self._numbers = plan.numbers(index)
        self._share = plan.share(index)
        self._rate = None if plan.rate is None else plan.rate * self._share / max(1, plan.messages)
        self._run = secrets.token_hex(4).encode()
        self._answer = re.compile(
            rb"SIP/2\.0 (\d{3})[^\r]*\r\n(?:[^\r]+\r\n)*?[Vv][^\r]*z9hG4bK" + self._run + rb"([0-9a-f]{8})"
        )
        self._open: dict[bytes, float] = {}  # number in hexadecimal, to when it was sent
        self._sent = 0
        self._tail = b""
        self.socket: socket.socket | None = None

    @property
    def finished(self) -> bool:
        return self._sent == self._share and not self._open

    @property
    def unanswered(self) -> int:
        return len(self._open)

    def leave_out_late(self, now: float, began: float) -> None:
        """Count messages as unsent that should have been sent too long ago."""
        if self._rate is None or self._plan.late_s is None:
            return
        late = min(int((now - began - self._plan.late_s) * self._rate), self._share) - self._sent
        if late > 0:
            self._tally.unsent.extend(islice(self._numbers, late))
            self._sent += late

    def room(self, now: float, began: float) -> int:
        """How many messages may be sent now, according to window, chunk size and rate."""
        left, window = self._share - self._sent, self._plan.open_messages
        room = min(window - len(self._open), left, _CHUNK)
        if self._rate is not None:
            return min(room, int((now - began) * self._rate) - self._sent)
        return room if room >= min(_CHUNK, window // 2, left) else 0  # in chunks, as each call is expensive

    def take_answers(self, received: bytes, now: float) -> None:
        """Settle every transaction whose final answer is in ``received``."""
        unanswered, tally = self._open, self._tally
        for status, token in self._answer.findall(received):
            if status < b"200" or token not in unanswered:
                continue  # provisional, or an answer to a retransmission
            tally.latencies_s.append(now - unanswered.pop(token))
            if status == b"200":
                tally.answered += 1
            else:
                tally.other[int(status)] += 1
                tally.otherwise.append(int(token, 16))
        tally.ended = now

    def give_up_old(self, now: float) -> None:
        """Timer F: count messages that were sent too long ago as lost."""
        while self._open:
            token, sent_at = next(iter(self._open.items()))
            if now - sent_at < self._plan.give_up_s:
                return
            del self._open[token]
            self._tally.lost.append(int(token, 16))

    def give_up_rest(self) -> None:
        """Count everything left as lost or unsent, as the server cannot be reached any more."""
        self._tally.unsent.extend(self._numbers)
        self._sent = self._share

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()

    def _next(self, count: int, now: float) -> list[tuple[bytes, ...]]:
        """The next messages, in parts, counted as sent. This loop dominates the generator's cost."""
        self._sent += count
        plan, start, unanswered = self._plan, self._plan.start, self._open
        devices, per_second = plan.devices, plan.messages_per_second
        first, second, third = self._first, self._second, self._third
        names, value = self._names, self._value
        shift, parts = self._shift, self._parts
        messages: list[tuple[bytes, ...]] = []
        for number in islice(self._numbers, count):
            step, device = divmod(number, devices)
            ahead, slot = divmod(step, per_second)
            length_and_end, before, after = parts[(shift[device] + ahead) % len(parts)][slot]
            token = b"%08x" % number
            unanswered[token] = now
            messages.append((
                first, token, second[device], token, third, token, length_and_end,
                names[device], b"%d|" % (start + ahead), before, value(number), after,
            ))  # fmt: skip
        return messages

    def _prepare(self, local: str) -> None:
        """Render what all messages over this socket share; they vary in the same places as PJSIP's."""
        plan, run = self._plan, self._run
        uri = f"sip:ecserver@{plan.host}:{plan.port}"
        self._first = (
            f"MESSAGE {uri};transport={plan.transport} SIP/2.0\r\n"
            f"Via: SIP/2.0/{plan.transport.upper()} {local};rport;branch=z9hG4bK".encode()
            + run
        )
        self._names = [f"{plan.device_id(device)}|".encode() for device in range(plan.devices)]
        self._second = [
            f"\r\nMax-Forwards: 70\r\nFrom: <sip:{plan.device_id(device)}@{local}>;tag=".encode() + run
            for device in range(plan.devices)
        ]
        self._third = (
            f"\r\nTo: <{uri}>\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nCall-ID: ".encode() + run
        )
        self._shift = [variant(device, plan.start) for device in range(plan.devices)]
        shared = len(f"{plan.device_id(0)}|{plan.start}|")
        self._value = first_value_bytes(FORMATS[plan.format][0])
        self._parts = [
            [(b"\r\nContent-Length: %5d\r\n\r\n" % (shared + p.length), p.before, p.after) for p in second]
            for second in prepared(plan.format)
        ]


class TcpConnection(_Connection):
    """Over TCP: nothing is sent twice, and a broken connection is opened again."""

    def __init__(self, plan: LoadPlan, index: int, tally: Tally) -> None:
        super().__init__(plan, index, tally)
        self._unwritten = memoryview(b"")
        self._try_again_at = 0.0
        self._reached_at = time.monotonic()
        self._connected_before = False

    def connect(self, now: float) -> bool:
        """True if there is a connection, opened again if necessary."""
        if self.socket is not None:
            return True
        if now < self._try_again_at:
            return False
        try:
            self.socket = socket.create_connection((self._plan.host, self._plan.port), timeout=2)
        except OSError:
            self._try_again_at = now + _RECONNECT_S
            if now - self._reached_at > self._plan.give_up_s:
                self.give_up_rest()
            return False
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._prepare("{}:{}".format(*self.socket.getsockname()[:2]))
        self._tally.reconnected += self._connected_before
        self._connected_before = True
        return True

    def send(self, count: int, now: float) -> None:
        """Send up to ``count`` further messages; what the socket does not accept is sent first next time."""
        assert self.socket is not None
        if not self._unwritten:
            if count <= 0:
                return
            self._unwritten = memoryview(b"".join(chain.from_iterable(self._next(count, now))))
        try:
            self._unwritten = self._unwritten[self.socket.send(self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:
            self._broken(now)

    def receive(self, now: float) -> None:
        """Read and process what has arrived."""
        assert self.socket is not None
        try:
            received = self._tail + self.socket.recv(1 << 18)
            # Acknowledge now: a server that collects its answers (Nagle) waits for that, up to 40 ms.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if len(received) == len(self._tail):
            self._broken(now)
            return
        whole = received.rfind(b"\r\n\r\n") + 4
        if whole >= 4:
            self.take_answers(received[:whole], now)
            self._tail = received[whole:]
        else:
            self._tail = received
        self._reached_at = now

    def expire(self, now: float) -> None:
        """Timer F: give up."""
        self.give_up_old(now)

    def _broken(self, now: float) -> None:
        assert self.socket is not None
        self.socket.close()
        self.socket, self._tail, self._unwritten = None, b"", memoryview(b"")
        self._tally.lost.extend(int(token, 16) for token in self._open)
        self._open.clear()
        self._try_again_at = now + _RECONNECT_S


_Datagrams = list[tuple[bytes, bytes]]
"""Number in hexadecimal, and the message."""


class UdpConnection(_Connection):
    """Over UDP: what is not answered is sent again."""

    def __init__(self, plan: LoadPlan, index: int, tally: Tally) -> None:
        super().__init__(plan, index, tally)
        # One queue a retransmission: everything in it waits equally long, so it is in order.
        self._again: list[deque[tuple[float, _Datagrams]]] = []
        self._delays_s: list[float] = []
        delay_s, total_s = _T1_S, _T1_S
        while total_s < plan.give_up_s:
            self._again.append(deque())
            self._delays_s.append(delay_s)
            delay_s = min(2 * delay_s, _T2_S)
            total_s += delay_s

    def connect(self, _now: float) -> bool:
        """Always True."""
        if self.socket is None:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            self.socket.connect((self._plan.host, self._plan.port))
            self.socket.setblocking(False)
            self._prepare("{}:{}".format(*self.socket.getsockname()[:2]))
        return True

    def send(self, count: int, now: float) -> None:
        """Send ``count`` further messages."""
        if count <= 0:
            return
        datagrams = [(parts[1], b"".join(parts)) for parts in self._next(count, now)]
        self._transmit(datagrams)
        if self._again:
            self._again[0].append((now + _T1_S, datagrams))

    def receive(self, now: float) -> None:
        """Read and process what has arrived."""
        assert self.socket is not None
        receive, received = self.socket.recv, []
        try:
            for _ in range(2 * _CHUNK):
                received.append(receive(4096))
        except OSError:
            pass  # no more for now, or refused because nobody listens; the timers continue
        self.take_answers(b"".join(received), now)

    def expire(self, now: float) -> None:
        """Timer E: send again what is still unanswered; timer F: give up."""
        for stage, queue in enumerate(self._again):
            while queue and queue[0][0] <= now:
                _, datagrams = queue.popleft()
                unanswered = [datagram for datagram in datagrams if datagram[0] in self._open]
                self._tally.retransmitted += len(unanswered)
                self._transmit(unanswered)
                if unanswered and stage + 1 < len(self._again):
                    self._again[stage + 1].append((now + self._delays_s[stage + 1], unanswered))
        self.give_up_old(now)

    def _transmit(self, datagrams: _Datagrams) -> None:
        assert self.socket is not None
        send = self.socket.send
        for _, message in datagrams:
            try:  # noqa: SIM105 -- this costs nothing, suppress() does
                send(message)
            except OSError:
                pass  # full or refused: as if lost on the way, sent again later


CONNECTIONS: Mapping[str, type[TcpConnection] | type[UdpConnection]] = {
    "tcp": TcpConnection,
    "udp": UdpConnection,
}
