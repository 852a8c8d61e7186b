"""Connections to the status port: those that are idle, slow, many or greedy do not affect the others."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from free_ports import free_port
from status_process import ROOT, Running, ask, end, until

# The server's own serve() with a shorter deadline, over the simplest application.
IMPATIENT = """
import sys
from starlette.responses import PlainTextResponse
from ec_server.status import http_server
http_server.DEADLINE_S = float(sys.argv[2])
http_server.MOST_CONNECTIONS = int(sys.argv[3])
listener = http_server.listen("127.0.0.1", int(sys.argv[1]))
http_server.serve(PlainTextResponse("well"), listener, lambda: None, until_eof=False)
"""


def is_cut(client: socket.socket) -> bool:
    """Wait for the other side to end the connection; an answer is not the end."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def test_idle_and_slow_clients_do_not_keep_others_waiting(running: Running) -> None:
    clients = []
    try:
        for number in range(80):
            client = socket.create_connection(("127.0.0.1", running.port), timeout=5)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: "[: number % 30])
            clients.append(client)
        running.beat()
        begun = time.monotonic()
        assert ask(running.port, "/healthz")[0] == 200
        assert ask(running.port, "/metrics")[0] == 200
        assert time.monotonic() - begun < 2
    finally:
        for client in clients:
            client.close()


@pytest.fixture
def start_impatient() -> Iterator[Callable[[float, int], int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(deadline_s: float, most: int) -> int:
        port = free_port()
        arguments = [sys.executable, "-c", IMPATIENT, str(port), str(deadline_s), str(most)]
        started.append(subprocess.Popen(arguments, cwd=ROOT))
        until(lambda: ask(port, "/")[0] == 200, "an answer")
        return port

    yield start
    for process in started:
        end(process)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_that_never_finishes_its_request_is_cut(
    start_impatient: Callable[[float, int], int], sent: bytes
) -> None:
    port = start_impatient(0.3, 100)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(sent)
        assert is_cut(client)


def test_above_the_connection_limit_new_connections_are_closed_and_others_served(
    start_impatient: Callable[[float, int], int],
) -> None:
    port = start_impatient(30.0, 5)
    until(lambda: ask(port, "/")[0] == 200, "room for five")
    held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sixth:
            assert is_cut(sixth)
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(1000).startswith(b"HTTP/1.1 200")
    finally:
        for client in held:
            client.close()


def test_a_huge_request_head_is_refused_and_the_server_goes_on(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as client:
        try:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000)
            answer = client.recv(1000)
        except OSError:
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert running.get("/healthz")[0] == 200
