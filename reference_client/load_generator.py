"""Offers a server the load of many meters, far cheaper than a SIP stack could.

    python -m reference_client.load_generator --server 127.0.0.1:34567 --transport tcp --messages 100000

It is a fair user agent client (RFC 3261) and no more: each message is a transaction of its own with
its own branch and Call-ID; over UDP it is sent again after 0.5 s, 1.5 s, 3.5 s and so on until it is
answered (timer E), over TCP never; either way it counts as lost when no answer came in 32 s
(timer F) or its connection broke. A broken TCP connection is made anew and the run goes on.

Every message counts once: messages = answered 200 + other answers + lost + unsent.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import secrets
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from reference_client.load_plan import FORMATS, WINDOWS, LoadPlan, first_value_bytes, prepared, variant

_CHUNK = 32
_T1_S, _T2_S = 0.5, 4.0
_RECONNECT_S = 0.05
# With more than so many unanswered messages, answers are fetched every so often, not one by one.
_BUSY, _NAP_S = 32, 0.0004


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What came of a plan. Latencies are from the first sending to the final answer."""

    messages: int
    answered: int
    """With 200: received. Whether it was stored is another question."""
    other: Mapping[int, int]
    """Final answers other than 200, by status."""
    lost: int
    unsent: int
    """Left when the server could not be reached any more."""
    retransmitted: int
    reconnected: int
    elapsed_s: float
    """From the first sending to the last answer."""
    cpu_s: float
    """The generator's own, all processes, without preparing the values."""
    latency_ms: Mapping[str, float]
    unanswered: tuple[int, ...] = field(repr=False)
    """The numbers of the messages that no 200 came for (lost, otherwise answered or unsent), ascending."""

    @property
    def per_second(self) -> float:
        """Messages answered with 200 a second."""
        return self.answered / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def cpu_us_per_message(self) -> float:
        """What one answered message cost the generator."""
        return 1e6 * self.cpu_s / self.answered if self.answered else 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON and people, without the list of numbers."""
        names = ("messages", "answered", "lost", "unsent", "retransmitted", "reconnected")
        return {
            **{name: getattr(self, name) for name in names},
            "other": {str(status): n for status, n in sorted(self.other.items())},
            "elapsed_s": round(self.elapsed_s, 3),
            "per_second": round(self.per_second, 1),
            "latency_ms": {name: round(value, 2) for name, value in self.latency_ms.items()},
            "cpu_s": round(self.cpu_s, 3),
            "cpu_us_per_message": round(self.cpu_us_per_message, 2),
        }


def run_load(plan: LoadPlan) -> LoadReport:
    """Send a whole plan and wait for its answers. Blocks; starts ``plan.processes - 1`` processes more."""
    if plan.processes == 1:
        return _report(plan, [_run_share(plan, 0)])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.processes, mp_context=context) as pool:
        return _report(plan, list(pool.map(_run_share, [plan] * plan.processes, range(plan.processes))))


@dataclass(slots=True)
class _Tally:
    """What one process counted."""

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
    """One socket, its share of the plan, and the transactions open on it."""

    def __init__(self, plan: LoadPlan, index: int, tally: _Tally) -> None:
        self._plan, self._tally = plan, tally
        self._numbers = plan.numbers(index)
        self._share = plan.share(index)
        self._rate = None if plan.rate is None else plan.rate * self._share / max(1, plan.messages)
        self._run = secrets.token_hex(4).encode()
        self._answer = re.compile(
            rb"SIP/2\.0 (\d{3})[^\r]*\r\n(?:[^\r]+\r\n)*?[Vv][^\r]*z9hG4bK" + self._run + rb"([0-9a-f]{8})"
        )
        self._open: dict[bytes, float] = {}  # number in hexadecimal: when it was sent
        self._sent = 0
        self._tail = b""
        self.socket: socket.socket | None = None

    @property
    def finished(self) -> bool:
        return self._sent == self._share and not self._open

    @property
    def unanswered(self) -> int:
        return len(self._open)

    def room(self, now: float, began: float) -> int:
        """How many messages may go out now: by window, by chunk, and by rate."""
        left, window = self._share - self._sent, self._plan.open_messages
        room = min(window - len(self._open), left, _CHUNK)
        if self._rate is not None:
            return min(room, int((now - began) * self._rate) - self._sent)
        return room if room >= min(_CHUNK, window // 2, left) else 0  # in chunks: a call costs more

    def take_answers(self, received: bytes, now: float) -> None:
        """Settle every transaction that has its final answer in ``received``."""
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
        """Timer F: count as lost what was sent too long ago."""
        while self._open:
            token, sent_at = next(iter(self._open.items()))
            if now - sent_at < self._plan.give_up_s:
                return
            del self._open[token]
            self._tally.lost.append(int(token, 16))

    def give_up_rest(self) -> None:
        """The server cannot be reached any more."""
        self._tally.unsent.extend(self._numbers)
        self._sent = self._share

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()

    def _next(self, count: int, now: float) -> list[tuple[bytes, ...]]:
        """The next messages in parts, counted as sent. The loop that the generator's cost is made of."""
        self._sent += count
        plan, start, unanswered = self._plan, self._plan.start, self._open
        devices, per_second = plan.devices, plan.messages_per_second
        first, second, names, value = self._first, self._second, self._names, self._value
        shift, parts = self._shift, self._parts
        messages: list[tuple[bytes, ...]] = []
        for number in islice(self._numbers, count):
            step, device = divmod(number, devices)
            ahead, slot = divmod(step, per_second)
            length_and_end, before, after = parts[(shift[device] + ahead) % len(parts)][slot]
            token = b"%08x" % number
            unanswered[token] = now
            messages.append((
                first, token, second[device], token, length_and_end,
                names[device], b"%d|" % (start + ahead), before, value(number), after,
            ))  # fmt: skip
        return messages

    def _prepare(self, local: str) -> None:
        """Render what all messages over this socket have in common."""
        plan, run = self._plan, self._run
        uri = f"sip:ecserver@{plan.host}:{plan.port}"
        self._first = (
            f"MESSAGE {uri};transport={plan.transport} SIP/2.0\r\n"
            f"Via: SIP/2.0/{plan.transport.upper()} {local};rport;branch=z9hG4bK".encode()
            + run
        )
        self._names = [f"{plan.device_id(device)}|".encode() for device in range(plan.devices)]
        self._second = [
            f"\r\nMax-Forwards: 70\r\nFrom: <sip:{plan.device_id(device)}@{local}>;tag=".encode()
            + run
            + f"\r\nTo: <{uri}>\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nCall-ID: ".encode()
            + run
            for device in range(plan.devices)
        ]
        self._shift = [variant(device, plan.start) for device in range(plan.devices)]
        shared = len(f"{plan.device_id(0)}|{plan.start}|")
        self._value = first_value_bytes(FORMATS[plan.format][0])
        self._parts = [
            [(b"\r\nContent-Length: %d\r\n\r\n" % (shared + p.length), p.before, p.after) for p in second]
            for second in prepared(plan.format)
        ]


class _TcpConnection(_Connection):
    def __init__(self, plan: LoadPlan, index: int, tally: _Tally) -> None:
        super().__init__(plan, index, tally)
        self._unwritten = memoryview(b"")
        self._try_again_at = 0.0
        self._reached_at = time.monotonic()
        self._connected_before = False

    def connect(self, now: float) -> bool:
        """True where there is a connection, made anew if need be."""
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


class _UdpConnection(_Connection):
    def __init__(self, plan: LoadPlan, index: int, tally: _Tally) -> None:
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
        if self.socket is None:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            self.socket.connect((self._plan.host, self._plan.port))
            self.socket.setblocking(False)
            self._prepare("{}:{}".format(*self.socket.getsockname()[:2]))
        return True

    def send(self, count: int, now: float) -> None:
        if count <= 0:
            return
        datagrams = [(parts[1], b"".join(parts)) for parts in self._next(count, now)]
        self._transmit(datagrams)
        if self._again:
            self._again[0].append((now + _T1_S, datagrams))

    def receive(self, now: float) -> None:
        assert self.socket is not None
        receive, received = self.socket.recv, []
        try:
            for _ in range(2 * _CHUNK):
                received.append(receive(4096))
        except OSError:
            pass  # no more for now, or refused: then nobody listens, and the timers go on
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


_CONNECTIONS: Mapping[str, type[_TcpConnection] | type[_UdpConnection]] = {
    "tcp": _TcpConnection,
    "udp": _UdpConnection,
}


def _run_share(plan: LoadPlan, process: int) -> _Tally:
    """Send one process's connections of the plan; runs in that process."""
    tally = _Tally()
    prepared(plan.format)
    kind = _CONNECTIONS[plan.transport]
    mine = [kind(plan, index, tally) for index in range(process, plan.connections, plan.processes)]
    for connection in mine:
        connection.connect(time.monotonic())
    cpu_before = time.process_time()
    tally.began = tally.ended = time.monotonic()
    try:
        _drive(mine, tally.began)
    finally:
        for connection in mine:
            connection.close()
    tally.cpu_s = time.process_time() - cpu_before
    return tally


def _drive(connections: Sequence[_TcpConnection | _UdpConnection], began: float) -> None:
    expire_at = began
    unfinished = list(connections)
    while unfinished:
        now = time.monotonic()
        reachable = [connection for connection in unfinished if connection.connect(now)]
        for connection in reachable:
            connection.send(connection.room(now, began), now)
        _wait(reachable)
        now = time.monotonic()
        for connection in reachable:
            if connection.socket is not None:
                connection.receive(now)
        if now >= expire_at:
            expire_at = now + 0.02
            for connection in unfinished:
                connection.expire(now)
            unfinished = [connection for connection in unfinished if not connection.finished]


def _wait(connections: Sequence[_TcpConnection | _UdpConnection]) -> None:
    """Until an answer comes or there may be something to send; under load until several came."""
    if sum([connection.unanswered for connection in connections]) > _BUSY:
        time.sleep(_NAP_S)
        return
    poll = select.poll()
    for connection in connections:
        if connection.socket is not None:
            poll.register(connection.socket, select.POLLIN)
    poll.poll(1)


def _report(plan: LoadPlan, tallies: Sequence[_Tally]) -> LoadReport:
    other: Counter[int] = sum((tally.other for tally in tallies), Counter())
    latencies_ms = 1000 * np.concatenate([np.asarray(tally.latencies_s) for tally in tallies])
    points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    unanswered = [n for tally in tallies for n in (*tally.lost, *tally.unsent, *tally.otherwise)]
    return LoadReport(
        messages=plan.messages,
        answered=sum(tally.answered for tally in tallies),
        other=dict(other),
        lost=sum(len(tally.lost) for tally in tallies),
        unsent=sum(len(tally.unsent) for tally in tallies),
        retransmitted=sum(tally.retransmitted for tally in tallies),
        reconnected=sum(tally.reconnected for tally in tallies),
        elapsed_s=max(tally.ended for tally in tallies) - min(tally.began for tally in tallies),
        cpu_s=sum(tally.cpu_s for tally in tallies),
        latency_ms={
            name: float(np.percentile(latencies_ms, point)) if len(latencies_ms) else 0.0
            for name, point in points.items()
        },
        unanswered=tuple(sorted(unanswered)),
    )


def plan_from_arguments(arguments: Sequence[str]) -> tuple[LoadPlan, bool]:
    """``(plan, print JSON?)`` of a command line; ends the program with a message where it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    host, _, port = given.server.rpartition(":")
    chosen = {"start": given.start, "prefix": given.id_prefix}
    try:
        plan = LoadPlan(
            host=host,
            port=int(port),
            transport=given.transport,
            devices=given.devices,
            messages=given.messages,
            rate=None if given.rate == "max" else float(given.rate),
            format=given.format,
            connections=given.connections,
            spread=given.spread,
            window=given.window,
            processes=given.processes,
            give_up_s=given.give_up,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except ValueError as error:
        parser.error(str(error))
    return plan, given.json


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_client.load_generator", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--server", default="127.0.0.1:34567", metavar="HOST:PORT")
    add("--transport", choices=tuple(WINDOWS), default="tcp")
    add("--devices", type=int, default=8)
    add("--messages", type=int, default=100_000)
    add("--rate", default="max", help="messages a second over all devices, or max")
    add("--format", choices=tuple(FORMATS), default="text44")
    add("--connections", type=int, default=4)
    add("--spread", action="store_true", help="send each device's messages over all connections in turn")
    add("--window", type=int, default=0, help="unanswered messages a connection (default: 128, over UDP 16)")
    add("--processes", type=int, default=1)
    add("--start", type=int, help="epoch second of each device's first message (default: an hour ago)")
    add("--id-prefix", help="device ids are PREFIX-0000 and so on (default: a new one each run)")
    add("--give-up", type=float, default=32.0, metavar="SECONDS", help="an answer this late is lost")
    add("--json", action="store_true")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one plan; 0 where every message was answered with 200, else 1."""
    plan, as_json = plan_from_arguments(arguments)
    try:
        report = run_load(plan)
    except KeyboardInterrupt:
        return 130
    described = {"devices": f"{plan.device_id(0)} ...", "start": plan.start, **report.as_dict()}
    print(json.dumps(described) if as_json else "\n".join(f"{k}: {v}" for k, v in described.items()))
    return 0 if report.answered == plan.messages else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
