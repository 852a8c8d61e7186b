"""The status process from its start to its end."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from free_ports import free_port
from status_process import DEADLINE_S, Running, ask, end, launch, until

from ec_server.account.worker_page import WorkerPage


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_0_also_while_clients_are_connected(own: Running, number: int) -> None:
    with socket.create_connection(("127.0.0.1", own.port), timeout=5):
        own.process.send_signal(number)
        assert own.process.wait(DEADLINE_S) == 0


def test_under_the_launcher_the_end_of_stdin_ends_it(tmp_path: Path) -> None:
    port = free_port()
    process = launch(tmp_path, port, EC_SUPERVISED="1")
    try:
        until(lambda: ask(port, "/healthz"), "an answer")
        assert process.stdin
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    finally:
        end(process)


def test_a_port_in_use_is_exit_78_with_the_reason_on_the_page(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = launch(tmp_path, taken.getsockname()[1])
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 78
    assert b"cannot listen" in said
    page = WorkerPage.open(tmp_path / "data" / "run" / "status.page")
    assert page.state()[0] == "dead"
    assert "cannot listen" in page.state()[1]
    page.close()


def test_a_faulty_configuration_is_exit_2(tmp_path: Path) -> None:
    process = launch(tmp_path, 99_999)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert b"status.port" in said


def test_it_beats_and_says_ready_on_its_own_page(running: Running) -> None:
    page = WorkerPage.open(running.folder / "run" / "status.page")
    assert page.state() == ("ready", "")
    assert page.pid() == running.process.pid
    page._cells[page._HEARTBEAT_NS] = 0
    until(lambda: page.silent_for_s() < 2, "a heartbeat")
    page.close()
