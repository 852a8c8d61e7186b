"""A relay on loopback between meters and the server: it loses, delays, reorders and cuts as it is told.

``Conditions`` may be changed at any time by any thread. Over UDP, loss takes datagrams, delay and jitter
hold them back, so that jitter also reorders them. Over TCP nothing is lost or reordered within a connection:
loss cuts it in the middle of whatever is on its way, delay holds all of it back.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
_TICK_S = 0.02
_PIECE = 65_536


@dataclass(slots=True)
class Conditions:
    """How bad the network is at the moment."""

    loss: float = 0.0
    """Share of datagrams, or of pieces of a stream at which its connection is cut."""
    delay_s: float = 0.0
    jitter_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Way:
    """One direction of a connection, or of one datagram sender."""

    source: socket.socket
    target: socket.socket
    back: _Way | None = None
    waiting: bytearray = field(default_factory=bytearray)
    last_due_s: float = 0.0
    closed: bool = False
    address: tuple[str, int] | None = None
    """Where datagrams go; None: the target is connected."""


class Relay:
    """Listens on ``port`` for TCP, and UDP where asked; the server behind it is on ``to_port``."""

    def __init__(self, port: int, to_port: int, seed: int, *, udp: bool = False) -> None:
        self.conditions = Conditions()
        self.datagrams = 0
        """Datagrams that were handed on to the server."""
        self._to = (LOOPBACK, to_port)
        self._choose = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, _Way, bytes]] = []
        self._count = itertools.count()
        self._senders: dict[tuple[str, int], _Way] = {}
        self._ways: set[_Way] = set()
        self._cut = threading.Event()
        self._stop = threading.Event()
        self._listener = socket.create_server((LOOPBACK, port), backlog=64)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._datagrams: socket.socket | None = None
        if udp:
            self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._datagrams.bind((LOOPBACK, port))
            self._selector.register(self._datagrams, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name=f"relay {port}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Close every connection, with what is on its way."""
        self._cut.set()

    def stop(self) -> None:
        """End it and its connections."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(self._pause_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._datagrams:
                    self._from_meter()
                else:
                    self._read(key.data)
            if self._cut.is_set():
                self._cut.clear()
                self._close_streams()
            self._hand_on()
        self._close_streams()
        for way in self._senders.values():
            way.target.close()
        for left in (self._listener, self._datagrams):
            if left is not None:
                left.close()
        self._selector.close()

    def _pause_s(self) -> float:
        first = self._due[0][0] - time.monotonic() if self._due else _TICK_S
        return min(_TICK_S, max(0.0, first))

    def _accept(self) -> None:
        with suppress(OSError):
            meter, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._to, 1)
            except OSError:
                meter.close()
                return
            forth, back = _Way(meter, server), _Way(server, meter)
            forth.back, back.back = back, forth
            for way in (forth, back):
                way.source.setblocking(False)
                way.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(way.source, selectors.EVENT_READ, way)
                self._ways.add(way)

    def _from_meter(self) -> None:
        assert self._datagrams is not None
        data, sender = self._datagrams.recvfrom(_PIECE)
        way = self._senders.get(sender)
        if way is None:
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.connect(self._to)
            server.setblocking(False)
            way = self._senders[sender] = _Way(self._datagrams, server)
            back = _Way(server, self._datagrams, address=sender)
            self._selector.register(server, selectors.EVENT_READ, back)
        self._plan(way, data)

    def _read(self, way: _Way) -> None:
        try:
            data = way.source.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and way.back is None:
            return  # a refused datagram
        if not data:
            self._close(way)
        else:
            self._plan(way, data)

    def _plan(self, way: _Way, data: bytes) -> None:
        now = self.conditions
        if now.loss and self._choose.random() < now.loss:
            if way.back is not None:
                self._close(way)
            return
        due_s = time.monotonic() + now.delay_s + self._choose.uniform(0, now.jitter_s)
        if way.back is not None:  # a stream keeps its order
            due_s = way.last_due_s = max(due_s, way.last_due_s)
        heapq.heappush(self._due, (due_s, next(self._count), way, data))

    def _hand_on(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, _, way, data = heapq.heappop(self._due)
            if way.back is None:
                self._send_datagram(way, data)
            elif not way.closed:
                way.waiting += data
        for way in list(self._ways):
            if way.waiting:
                self._send_stream(way)

    def _send_datagram(self, way: _Way, data: bytes) -> None:
        with suppress(OSError):
            if way.address is None:
                way.target.send(data)
                self.datagrams += 1
            else:
                way.target.sendto(data, way.address)

    def _send_stream(self, way: _Way) -> None:
        try:
            del way.waiting[: way.target.send(way.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(way)

    def _close(self, way: _Way) -> None:
        for one in (way, way.back):
            if one is not None and not one.closed:
                one.closed = True
                self._ways.discard(one)
                with suppress(KeyError, ValueError):
                    self._selector.unregister(one.source)
                one.source.close()

    def _close_streams(self) -> None:
        for way in list(self._ways):
            self._close(way)
