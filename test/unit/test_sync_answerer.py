"""The reference meter's connection, against servers that are not what they should be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sync_meter import NOON, MemoryMeter, waveform
from sync_process import wait_for

from reference_client.sync_answerer import SyncAnswerer, SyncSettings
from utilities.utc import minute_text

KEY = bytes(range(32))
WELCOME = {"type": "welcome", "protocol": 1, "interval": 1800}


class FakeServer:
    """Says to each connection what a script tells it, line by line, and keeps what it heard."""

    def __init__(self, script: Callable[[FakeServer], None]) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.heard: list[dict[str, Any]] = []
        self.connections = 0
        self._script = script
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self._connected, _ = self.listening.accept()
                self._lines = self._connected.makefile("rb")
                self.connections += 1
                with suppress(OSError, ValueError):
                    self._script(self)
                self._lines.close()
                self._connected.close()

    def hear(self) -> dict[str, Any]:
        self.heard.append(json.loads(self._lines.readline()))
        return self.heard[-1]

    def say(self, *frames: dict[str, Any]) -> None:
        self._connected.sendall(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))


@contextmanager
def running(server: FakeServer, **more: Any) -> Iterator[SyncAnswerer]:
    given = {"first_wait_s": 0.001, "longest_wait_s": 0.064} | more
    recorded = MemoryMeter({NOON: waveform(NOON, 5)})
    meter = SyncAnswerer(SyncSettings("127.0.0.1", server.port, "meter-7", **given), recorded)
    meter.start()
    try:
        yield meter
    finally:
        meter.stop()
        server.listening.close()


ASK = {"type": "minutes", "id": 1, "from": minute_text(NOON), "to": minute_text(NOON + 60)}
VERIFIED = {"type": "verified", "from": minute_text(NOON), "through": minute_text(NOON)}
COUNTS = {"compared": 0, "repaired": 0, "unresolved": 0}


def test_a_meter_with_a_key_serves_no_server_that_does_not_ask_for_it() -> None:
    def impostor(server: FakeServer) -> None:
        server.hear()
        server.say(WELCOME, ASK)
        server.hear()
        server.hear()

    server = FakeServer(impostor)
    with running(server, key=KEY):
        wait_for(lambda: server.connections >= 3, "more tries")
    kinds = {(frame["type"], frame.get("code")) for frame in server.heard}
    assert kinds == {("hello", None), ("error", "not_challenged")}


def test_a_meter_without_a_key_serves_the_server_that_welcomes_it() -> None:
    def plain(server: FakeServer) -> None:
        server.hear()
        server.say(WELCOME, ASK)
        server.hear()

    server = FakeServer(plain)
    with running(server):
        wait_for(lambda: len(server.heard) >= 2, "the answer")
    assert server.heard[1]["digests"][0][0] == minute_text(NOON)


def test_a_welcome_does_not_shorten_the_wait_and_a_round_that_ended_does() -> None:
    ends = threading.Event()

    def fails_at_the_same_place(server: FakeServer) -> None:
        server.hear()
        server.say(WELCOME, ASK)
        server.hear()
        if ends.is_set():
            server.say(VERIFIED | COUNTS)
            ends.clear()

    server = FakeServer(fails_at_the_same_place)
    with running(server) as meter:
        wait_for(lambda: meter.wait_s == 0.064, "the longest wait")
        connections = server.connections
        assert connections >= 6
        ends.set()
        wait_for(lambda: meter.rounds == 1, "a round")
        wait_for(lambda: meter.wait_s < 0.064, "a shorter wait")
