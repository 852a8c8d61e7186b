"""``ec_server_main.py`` as a command: what it refuses, and the server that it runs."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import apsw
import httpx
import psutil
import pytest
from free_ports import free_ports

from configuration.settings import Settings
from ec_server.account.figures import queued
from ec_server.account.worker_page import WorkerPage
from ec_server.supervision.port_probe import probe, server_ports
from reference_client.load_generator import run_load
from reference_client.load_plan import LoadPlan
from utilities.errors import ConfigurationError
from utilities.utc import parse_ec

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
PROGRAMS = {
    "data_receiver.py --worker 0": "receiver-0",
    "data_receiver.py --worker 1": "receiver-1",
    "sync_server.py": "sync",
    "ec_server.status": "status",
}
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def wait_for(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s} s in vain: {what()}"
        time.sleep(0.01)


class Server:
    """The command in a working folder of its own, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sip, self.sync, self.status = free_ports(3)
        self.log_path = folder / "server.log"
        self.environ = {
            "EC_SIP_PORT": str(self.sip),
            "EC_SYNC_PORT": str(self.sync),
            "EC_STATUS_PORT": str(self.status),
            "EC_SIP_RECEIVERS": "2",
        }
        self.run_folder = folder / "data" / "run"
        self.first_pids: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.all_pids: set[int] = set()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-u", str(ROOT / "ec_server_main.py"), *arguments]

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, **self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *before: str) -> None:
        self.first_pids = set(self.all_pids)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *self.command()],
                cwd=self.folder,
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> int:
        return httpx.get(f"http://{LOOPBACK}:{self.status}{path}", timeout=10).status_code

    def kill_receiver_0(self, wait_s: float) -> None:
        """Kill it at a random moment of its life, and wait until its replacement is ready."""
        time.sleep(wait_s)
        pid = self.children()["receiver-0"].pid
        os.kill(pid, signal.SIGKILL)
        page = WorkerPage.open(self.run_folder / "receiver-0.page")
        wait_for(lambda: page.state()[0] == "ready" and page.pid() != pid, self.log)
        page.close()

    def kill_writer_0(self, wait_s: float) -> None:
        """Kill receiver 0's writer process, and wait until its replacement is there."""
        time.sleep(wait_s)
        receiver = self.children()["receiver-0"]
        wait_for(receiver.children, self.log)
        writer = receiver.children()[0]
        self.all_pids.add(writer.pid)
        writer.kill()
        wait_for(lambda: any(child.pid != writer.pid for child in receiver.children()), self.log)
        self.all_pids |= {child.pid for child in receiver.children()}

    def figures(self, name: str) -> dict[str, int]:
        page = WorkerPage.open(self.run_folder / f"{name}.page")
        try:
            return page.figures()
        finally:
            page.close()

    def rows(self) -> set[tuple[str, int, str]]:
        """Every stored row of files that are whole."""
        found = set()
        for path in (self.folder / "data").glob("ec-*.sqlite"):
            with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as day:
                assert day.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                for device, date, at, text in day.execute(
                    "SELECT device_id, ec_date, ec_time, ec_consumption_values FROM ec_consumption"
                ):
                    found.add((device, parse_ec(date, at), text))
        return found

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def children(self) -> dict[str, psutil.Process]:
        """The live workers by name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                words = " ".join(child.cmdline())
                self.all_pids.add(child.pid)
                found.update({name: child for part, name in PROGRAMS.items() if part in words})
        return found

    def wait_log(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.log().count(text) >= times, lambda: f"{text!r} in the log:\n{self.log()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.children()
        self.process.send_signal(number)
        return self.process.wait(30)

    def left(self) -> set[int]:
        return {pid for pid in self.all_pids if psutil.pid_exists(pid)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.children()
        made.process.kill()
        made.process.wait()
    for pid in made.left():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def taken() -> Iterator[Callable[[int, int], None]]:
    """Takes ports on loopback, as another program would; with SO_REUSEPORT, as another server."""
    held: list[socket.socket] = []

    def take(kind: int, port: int) -> None:
        held.append(socket.socket(socket.AF_INET, kind))
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held[-1].bind((LOOPBACK, port))
        if kind == STREAM:
            held[-1].listen()

    yield take
    for each in held:
        each.close()


# --- what it refuses ----------------------------------------------------------------------


def test_check_config_says_that_a_good_configuration_is_valid(server):
    done = server.run("--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid" in done.stdout


def test_check_config_names_every_fault_and_ends_with_2(server):
    done = server.run("--check-config", EC_SIP_PORT="0", EC_SYNC_SYNCFREQ="often")
    assert done.returncode == 2
    assert "EC_SIP_PORT" in done.stderr
    assert "EC_SYNC_SYNCFREQ" in done.stderr


def test_a_faulty_configuration_stops_the_start_with_exit_2_and_says_where(server):
    (server.folder / "bad.properties").write_text("[SIP]\nsip.port=34567\nsip.prot=1\n")
    done = server.run("-c", "bad.properties")
    assert done.returncode == 2
    assert "bad.properties:3" in done.stderr
    assert not (server.folder / "data").exists()


def test_version_is_the_projects(server):
    done = server.run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("energy-consumption-server ")


@pytest.mark.parametrize(
    ("kind", "port", "key"),
    [
        (DATAGRAM, "sip", "sip.port"),
        (STREAM, "sip", "sip.port"),
        (STREAM, "sync", "sync.port"),
        (STREAM, "status", "status.port"),
    ],
)
def test_a_port_in_use_ends_the_start_with_exit_2_and_names_the_key_to_change(server, taken, kind, port, key):
    number = getattr(server, port)
    taken(kind, number)
    done = server.run()
    assert done.returncode == 2
    assert f"{LOOPBACK} port {number}" in done.stderr
    assert f"change {key}" in done.stderr
    assert "receiver-0" not in done.stderr


def test_every_port_that_cannot_be_had_is_named_at_once(taken):
    sip, sync = free_ports(2)
    taken(DATAGRAM, sip)
    taken(STREAM, sip)
    taken(STREAM, sync)
    with pytest.raises(ConfigurationError) as caught:
        probe(server_ports(Settings(sip_port=sip, sync_port=sync, status_port=0)))
    assert len(str(caught.value).splitlines()) == 3


def test_the_port_for_tls_is_probed_with_its_own_key(taken):
    (port,) = free_ports(1)
    taken(STREAM, port)
    settings = Settings(sip_transports=("tls",), sip_tls_port=port, sync_port=free_ports(1)[0], status_port=0)
    with pytest.raises(ConfigurationError, match=r"SIP over TLS.*change sip\.tls_port"):
        probe(server_ports(settings))


def test_an_address_that_the_machine_does_not_have_is_named_with_its_key():
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1.*no such address: change sync\.ip"):
        probe(server_ports(Settings(sync_ip="192.0.2.1", sip_port=free_ports(1)[0], status_port=0)))


def test_ports_that_are_free_stay_free_after_the_probe():
    sip, sync, status = free_ports(3)
    settings = Settings(sip_port=sip, sync_port=sync, status_port=status)
    probe(server_ports(settings))
    probe(server_ports(settings))


def test_a_storage_path_that_is_a_file_stops_the_start(server):
    (server.folder / "data").write_text("not a folder")
    done = server.run()
    assert done.returncode == 2
    assert "storage.path" in done.stderr


def test_a_storage_path_in_use_by_another_server_stops_the_start(server):
    lock = server.folder / "data" / "run" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        held.write(f"{os.getpid()}\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        done = server.run()
    assert done.returncode == 2
    assert f"in use by another server, process {os.getpid()}" in done.stderr


# --- the server that it runs --------------------------------------------------------------


def test_the_server_comes_up_from_one_command_and_ends_cleanly_on_sigterm(server):
    server.start()
    server.wait_log(" up: ")
    assert f"SIP udp,tcp on {LOOPBACK}:{server.sip} (2 receivers)" in server.log()
    assert len(server.children()) == 4
    assert server.get("/readyz") == 200
    assert server.end() == 0
    assert server.left() == set()
    assert "ERROR" not in server.log()


def test_under_nohup_it_outlives_its_terminal_and_ends_on_sigint(server):
    server.start("nohup")
    server.wait_log(" up: ")
    server.process.send_signal(signal.SIGHUP)
    os.kill(server.children()["receiver-0"].pid, signal.SIGKILL)
    server.wait_log("receiver-0 is back")
    assert server.end(signal.SIGINT) == 0
    assert server.left() == set()


@pytest.mark.parametrize("name", ["receiver-1", "sync", "status"])
def test_each_kind_of_worker_is_replaced_when_it_is_killed(server, name):
    server.start()
    server.wait_log(" up: ")
    before = {each: process.pid for each, process in server.children().items()}
    os.kill(before[name], signal.SIGKILL)
    server.wait_log(f"{name} is back")
    after = {each: process.pid for each, process in server.children().items()}
    assert {each for each in before if before[each] != after[each]} == {name}
    assert server.end() == 0


def test_a_worker_sent_sigterm_drains_and_is_replaced(server):
    server.start()
    server.wait_log(" up: ")
    os.kill(server.children()["receiver-0"].pid, signal.SIGTERM)
    server.wait_log("receiver-0 is back")
    assert "ended with exit code 0" in server.log()
    assert server.end() == 0


def test_nothing_outlives_a_launcher_that_was_killed_and_the_next_one_starts_at_once(server):
    server.start()
    server.wait_log(" up: ")
    server.children()
    server.process.kill()
    server.process.wait()
    server.start()
    server.wait_log(" up: ", 2)
    wait_for(lambda: not server.left() & server.first_pids, lambda: f"{server.left()} to be gone")
    assert server.end() == 0


def test_a_second_server_on_the_same_storage_or_the_same_ports_is_refused_and_the_first_goes_on(
    server, tmp_path
):
    server.start()
    server.wait_log(" up: ")
    on_same_storage = server.run()
    assert on_same_storage.returncode == 2
    assert f"process {server.process.pid}" in on_same_storage.stderr
    on_same_ports = server.run(EC_STORAGE_PATH=str(tmp_path / "other"))
    assert on_same_ports.returncode == 2
    for key in ("sip.port", "sync.port", "status.port"):
        assert f"change {key}" in on_same_ports.stderr
    assert server.get("/readyz") == 200
    assert server.end() == 0


# --- killed under load --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("victims", "kills", "transport"),
    [
        (("sip", "writer"), 6, "tcp"),
        pytest.param(("sip",), 50, "tcp", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(("sip",), 50, "udp", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(("writer",), 50, "tcp", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(("sip", "writer"), 50, "udp", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_a_receiver_killed_under_load_comes_back_and_loses_nothing_it_counted(
    server, victims, kills, transport
):
    server.start()
    server.wait_log(" up: ")
    moments = random.Random(kills)
    waits_s = [moments.uniform(0.05, 1.5) for _ in range(kills)]
    plan = LoadPlan(
        port=server.sip,
        transport=transport,
        devices=16,
        connections=16,
        rate=1500,
        messages=int(1500 * (sum(waits_s) + kills * 0.6 + 1)),
        give_up_s=5.0,
    )
    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(run_load, plan)
        for wait_s, victim in zip(waits_s, victims * kills, strict=False):
            kill = server.kill_receiver_0 if victim == "sip" else server.kill_writer_0
            kill(wait_s)  # and wait until another is there
        report = load.result()
    assert server.end() == 0

    pages = [server.figures(f"receiver-{number}") for number in (0, 1)]
    assert [queued(figures) for figures in pages] == [0, 0]
    assert [figures["lost"] for figures in pages] == [0, 0]
    rows = server.rows()
    planned = {(device, second, text) for device, second, text in plan.batches()}
    assert rows <= planned
    assert len(rows) == sum(figures["stored"] for figures in pages)
    assert sum(figures["received"] for figures in pages) >= report.answered
    assert len(planned - rows) <= plan.messages - report.answered
