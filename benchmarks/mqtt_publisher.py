"""Offers an MQTT broker the same messages as the SIP load generator, with QoS 1, at the lowest possible cost.

paho publishes only some thousand messages per second, so it would be paho that is measured. Therefore MQTT
3.1.1 frames are written to plain sockets, many per call, with a window of unacknowledged ones for each
connection.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from itertools import islice

from reference_client.load_plan import FORMATS, LoadPlan, first_value_bytes, prepared, variant

TOPIC = "meter"
"""A device publishes to ``meter/<device id>``."""

_CHUNK = 32
_PUBLISH_QOS_1, _PUBACK = 0x32, b"\x40\x02"
_LARGEST_ID = 65_535


@dataclass(frozen=True, slots=True)
class PublishReport:
    """The result of a plan; the broker has acknowledged every message."""

    messages: int
    began: float
    """``time.monotonic`` of the first message."""
    elapsed_s: float
    """Until the last acknowledgement."""
    cpu_s: float


def publish(plan: LoadPlan) -> PublishReport:
    """Publish a complete plan and wait until the broker has acknowledged it. Raises OSError if that fails."""
    prepared(plan.format)
    connections = [_Connection(plan, index) for index in range(plan.connections)]
    cpu_before, began = time.process_time(), time.monotonic()
    try:
        unfinished = connections
        while unfinished:
            for connection in unfinished:
                connection.send()
            select.select(unfinished, [], [], 1)
            for connection in unfinished:
                connection.receive()
            unfinished = [connection for connection in unfinished if not connection.finished]
        ended = time.monotonic()
    finally:
        for connection in connections:
            connection.close()
    return PublishReport(plan.messages, began, ended - began, time.process_time() - cpu_before)


class _Connection:
    """One MQTT session and its share of the plan."""

    def __init__(self, plan: LoadPlan, index: int) -> None:
        self._plan, self._numbers, self._left = plan, plan.numbers(index), plan.share(index)
        self._open, self._id, self._tail, self._unwritten = 0, 0, b"", memoryview(b"")
        self._prepare()
        self._socket = socket.create_connection((plan.host, plan.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_connect_frame(f"{plan.prefix}-{index}"))
        if self._socket.recv(4) != b"\x20\x02\x00\x00":
            raise ConnectionError("the broker refused the connection")
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    @property
    def finished(self) -> bool:
        """Whether everything is sent and acknowledged."""
        return not self._left and not self._open

    def send(self) -> None:
        """Send what the window has room for, in chunks."""
        if not self._unwritten:
            room = min(self._plan.open_messages - self._open, self._left, _CHUNK)
            if room <= 0 or room < min(_CHUNK, self._left, self._plan.open_messages // 2):
                return
            self._unwritten = memoryview(self._next(room))
        try:
            self._unwritten = self._unwritten[self._socket.send(self._unwritten) :]
        except BlockingIOError:
            return

    def receive(self) -> None:
        """Count acknowledgements; a broker sends nothing else to a publisher."""
        try:
            received = self._tail + self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        whole = len(received) // 4
        if len(received) == len(self._tail) or received[: 4 * whole : 4].strip(_PUBACK[:1]):
            raise ConnectionError("the broker closed the connection or sent no acknowledgement")
        self._open -= whole
        self._tail = received[4 * whole :]

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def _prepare(self) -> None:
        plan = self._plan
        self._value = first_value_bytes(FORMATS[plan.format][0])
        self._heads, self._names = [], []
        for device in range(plan.devices):
            topic = f"{TOPIC}/{plan.device_id(device)}".encode()
            self._heads.append(len(topic).to_bytes(2, "big") + topic)
            self._names.append(f"{plan.device_id(device)}|".encode())

    def _next(self, count: int) -> bytes:
        """The frames of the next messages, counted as sent."""
        plan = self._plan
        frames: list[bytes] = []
        second_length = len(b"%d|" % plan.start)
        parts = prepared(plan.format)
        for number in islice(self._numbers, count):
            step, device = divmod(number, plan.devices)
            ahead, slot = divmod(step, plan.messages_per_second)
            part = parts[variant(device, plan.start + ahead)][slot]
            head, name = self._heads[device], self._names[device]
            self._id = self._id % _LARGEST_ID + 1
            length = len(head) + 2 + len(name) + second_length + part.length
            frames += (
                _length_prefix(length), head, self._id.to_bytes(2, "big"),
                name, b"%d|" % (plan.start + ahead), part.before, self._value(number), part.after,
            )  # fmt: skip
        self._open += count
        self._left -= count
        return b"".join(frames)


def _length_prefix(length: int) -> bytes:
    """Fixed header of a PUBLISH with QoS 1: type, then seven bits of the length per byte, lowest first."""
    if length < 128:
        return bytes((_PUBLISH_QOS_1, length))
    return bytes((_PUBLISH_QOS_1, length & 127 | 128, length >> 7))


def _connect_frame(client_id: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(client_id).to_bytes(2, "big") + client_id.encode()
    return bytes((0x10, len(body))) + body
