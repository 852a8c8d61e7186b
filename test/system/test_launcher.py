"""``ec_server_main.py`` as a command: what it refuses, and the server that it runs."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from configuration.settings import Settings
from ec_server.errors import ConfigurationError
from ec_server.supervision.commit_lookup import commit_lookup
from ec_server.supervision.port_probe import probe, server_ports

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def free_ports(count: int) -> list[int]:
    """Ports that nobody has on either transport at this moment."""
    held, ports = [], []
    while len(ports) < count:
        stream, datagram = socket.socket(socket.AF_INET, STREAM), socket.socket(socket.AF_INET, DATAGRAM)
        held += [stream, datagram]
        stream.bind((LOOPBACK, 0))
        with suppress(OSError):
            datagram.bind(stream.getsockname())
            ports.append(stream.getsockname()[1])
    for each in held:
        each.close()
    return ports


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

    def start(self, **environ: str) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env={**os.environ, **self.environ, **environ}, stderr=log
            )

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def children(self) -> dict[str, psutil.Process]:
        """The live workers by the end of their program's name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                words = child.cmdline()
                found["-".join(words[2:5]).rpartition("/")[2]] = child
                self.all_pids.add(child.pid)
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


def test_an_address_that_the_machine_has_not_is_named_with_its_key():
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


# --- a commit in doubt --------------------------------------------------------------------

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from ec_server.model import Batch, CommitMark
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex

values = "000000,1"
batch = Batch("meter-1", 1_700_006_400, 0, 0, values, 1, md5_hex(values))
SqliteStore(Path(sys.argv[1])).write([batch, batch], CommitMark("receiver-0", 5))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_last_commit_of_a_killed_writer_is_found_in_the_database(tmp_path):
    writer = subprocess.run(
        [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert writer.returncode == -signal.SIGKILL
    look_up = commit_lookup(Settings(storage_path=tmp_path))
    assert look_up(1_700_006_400, "receiver-0") == (5, 1, 1)
    assert look_up(1_700_006_400, "receiver-1") is None
    assert look_up(1_700_006_400 + 86_400, "receiver-0") is None


def test_cassandra_is_not_asked():
    settings = replace(Settings(), storage_engine="cassandra")
    assert commit_lookup(settings)(1_700_006_400, "receiver-0") is None
