"""What systemd is told, over a real socket of its kind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ec_server.supervision.plan import child_environment
from ec_server.supervision.sd_notify import ServiceState

PID = 4711


@pytest.fixture(params=["file", "abstract"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = tmp_path / "notify"
    name = str(path) if request.param == "file" else f"@ec-test-{os.getpid()}-{path}"[:100]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name if request.param == "file" else "\0" + name[1:])
        listening.setblocking(False)
        yield listening, name


def told(listening: socket.socket) -> list[str]:
    texts = []
    try:
        while True:
            texts.append(listening.recv(4096).decode())
    except BlockingIOError:
        return texts


def test_ready_and_stopping_are_reported_once(service: tuple[socket.socket, str]) -> None:
    listening, name = service
    state = ServiceState.of({"NOTIFY_SOCKET": name}, PID)
    for _ in range(3):
        state.ready("up:\nall of them")
    for _ in range(3):
        state.stopping()
    state.alive(0.0)
    ready, stopping = told(listening)
    assert ready.split("\n") == ["READY=1", "STATUS=up: all of them"]
    assert stopping.startswith("STOPPING=1\n")


def test_the_watchdog_is_notified_at_half_its_time_by_the_process_it_watches(
    service: tuple[socket.socket, str],
) -> None:
    listening, name = service
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(PID)}
    state = ServiceState.of(environ, PID)
    state.alive(0.0)
    assert told(listening) == []
    state.ready("up")
    for tenths in range(100, 180):
        state.alive(tenths / 10)
    assert told(listening)[1:] == ["WATCHDOG=1"] * 8
    for wrong in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}):
        other = ServiceState.of({**environ, **wrong}, PID)
        other.ready("up")
        other.alive(0.0)
        assert len(told(listening)) == 1


def test_nobody_listening_or_asking_costs_nothing(tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "nobody"), "@nobody-at-all"):
        state = ServiceState.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}, PID)
        state.ready("up")
        state.alive(0.0)
        state.stopping()


def test_a_service_manager_that_does_not_read_delays_nobody_and_hears_what_counts_later(
    service: tuple[socket.socket, str],
) -> None:
    listening, name = service
    state = ServiceState.of({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1"}, PID)
    state.ready("up")
    for second in range(20_000):
        state.alive(float(second))
    state.stopping()
    heard = told(listening)
    assert "STOPPING=1" not in "\n".join(heard)
    state.alive(20_000.0)
    assert told(listening)[0].startswith("STOPPING=1")


def test_workers_do_not_get_the_variables_to_notify_systemd(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "PATH": "/bin"}
    assert not set(child_environment(environ, tmp_path)) & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
