"""The meters' command as a command: it pauses, ends and dies the way its users need it to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from free_ports import free_ports
from running_server import ROOT, RunningServer, wait_for

from reference_client.local_store import LocalStore, store_folder
from utilities.sip_client_options import MOST_ACCOUNTS


class Meters:
    """The command, running, with what it printed in a file."""

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        self.store = folder / "meters"
        self.log = folder / "meters.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "reference_client", "--server", f"127.0.0.1:{port}"),
                    *("--store", str(self.store), *arguments),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text()

    def sums(self, name: str) -> int:
        """What the lines so far say in all of ``sent``, ``acknowledged``, ``failed`` or ``skipped``."""
        return sum(map(int, re.findall(rf"meters:.*\b{name} (\d+)", self.said())))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def recorded(self, device_id: str) -> int:
        """Seconds in a meter's local store."""
        with_store = LocalStore(store_folder(self.store, device_id))
        minutes = with_store.minute_digests(0, 1 << 40)
        return sum(len(with_store.second_digests(minute)) for minute, _ in minutes)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path) as running:
        running.start()
        yield running


@pytest.fixture
def meters(tmp_path: Path) -> Iterator[list[Meters]]:
    running: list[Meters] = []
    yield running
    for each in running:
        if each.process.poll() is None:
            each.process.terminate()
        each.process.wait(20)


def test_ctrl_c_ends_all_processes_in_order(server: RunningServer, meters: list[Meters], tmp_path: Path):
    running = Meters(tmp_path, server.sip_port, "--devices", str(MOST_ACCOUNTS + 1))
    meters.append(running)
    wait_for(lambda: running.sums("acknowledged") > 100, "messages to be acknowledged")
    family = running.family()
    assert len(family) >= 2
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: everyone gets it
    assert running.process.wait(20) == 0, running.said()
    wait_for(lambda: not any(map(_lives, family)), "every process to be gone", 5)
    assert "Traceback" not in running.said()
    last = running.said().splitlines()[-1]
    assert re.match(r"seconds recorded \d+, sent \d+, acknowledged \d+, failed 0", last)


def test_meters_end_when_their_parent_is_killed(server: RunningServer, meters: list[Meters], tmp_path: Path):
    running = Meters(tmp_path, server.sip_port, "--devices", "2")
    meters.append(running)
    wait_for(lambda: running.sums("acknowledged") > 100, "messages to be acknowledged")
    family = running.family()
    running.process.kill()
    wait_for(lambda: not any(map(_lives, family)), "every process to end", 15)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_recording_goes_on_while_no_server_is_there(meters: list[Meters], tmp_path: Path):
    (port,) = free_ports(1)
    running = Meters(tmp_path, port, "--transport", "tcp")
    meters.append(running)
    wait_for(lambda: running.recorded("meter-1") >= 4, "four seconds to be recorded")
    wait_for(lambda: running.sums("skipped") > 500 and running.sums("failed") > 0, "messages to be skipped")
    assert running.sums("acknowledged") == 0
    assert running.sums("failed") < 500  # not stormed
    with RunningServer(tmp_path) as late:
        late.sip_port = port
        late.start()
        wait_for(lambda: running.sums("acknowledged") > 500, "messages to arrive once the server is there")
    running.process.terminate()
    assert running.process.wait(20) == 0, running.said()


def test_with_subscribe_nothing_is_sent_before_the_server_is_open(
    server: RunningServer, meters: list[Meters], tmp_path: Path
):
    for transport in ("tcp", "udp"):
        running = Meters(tmp_path, server.sip_port, "--subscribe", "--seconds", "1", "--transport", transport)
        meters.append(running)
        assert running.process.wait(40) == 0, running.said()
        assert "acknowledged 1000" in running.said()


def test_with_subscribe_and_no_server_the_command_fails_and_says_why(meters: list[Meters], tmp_path: Path):
    (port,) = free_ports(1)
    running = Meters(tmp_path, port, "--subscribe", "--seconds", "1")
    meters.append(running)
    assert running.process.wait(40) == 1
    assert "did not say that it is open" in running.said()


def test_a_store_in_use_is_named(meters: list[Meters], tmp_path: Path):
    held = LocalStore(store_folder(tmp_path / "meters", "meter-1"))
    held.begin(int(time.time()))
    running = Meters(tmp_path, free_ports(1)[0], "--seconds", "1")
    meters.append(running)
    assert running.process.wait(30) == 1
    assert "another meter records into" in running.said()
    held.close()
