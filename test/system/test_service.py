"""The server as a service: what it tells systemd, its unit file, and that nobody else can read its files."""

from __future__ import annotations

import ast
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from needs import need
from running_server import ROOT, RunningServer, wait_for
from system.sip_peer import Peer

UNIT = ROOT / "deploy" / "energy-consumption-server.service"
PROGRAMS = (
    "ec_server_main.py",
    "data_receiver.py",
    "sync_server.py",
    "ec_server/ingest/__main__.py",
    "ec_server/status/__main__.py",
    "ec_server/storage/move_data.py",
)
MOST_EXPOSED = 1.4


class ServiceManager:
    """Listens where systemd would."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def hears(self, word: str, times: int = 1) -> bool:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.heard.count(word) >= times

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()


def test_the_launcher_tells_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, manager: ServiceManager
) -> None:
    with RunningServer(tmp_path) as server:
        server.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="1000000", EC_STORAGE_MIN_FREE_MB="0")
        wait_for(lambda: manager.hears("READY=1"), "READY")
        assert "STOPPING=1" not in manager.heard
        beats = manager.heard.count("WATCHDOG=1")
        wait_for(lambda: manager.hears("WATCHDOG=1", beats + 3), "three beats")
        assert server.process
        for worker in psutil.Process(server.process.pid).children(recursive=True):
            assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(worker.environ())
        assert server.stop() == 0
        assert manager.hears("STOPPING=1")
    assert manager.heard.count("READY=1") == manager.heard.count("STOPPING=1") == 1
    assert any(line.startswith("STATUS=up") for line in manager.heard)


def test_openssl_of_the_interpreter_does_not_loop_on_a_crafted_certificate() -> None:
    # CVE-2022-0778, reachable where strangers are asked for certificates: fixed in 1.1.1n and 3.0.2.
    version = re.search(r"OpenSSL (\d+)\.(\d+)\.(\d+)([a-z]*)", ssl.OPENSSL_VERSION)
    assert version, ssl.OPENSSL_VERSION
    numbers = tuple(int(number) for number in version.groups()[:3])
    assert numbers >= (3, 0, 2) or (numbers == (1, 1, 1) and version[4] >= "n"), ssl.OPENSSL_VERSION


def test_every_file_that_security_md_names_is_there() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_.]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_start_that_fails_is_never_ready(tmp_path: Path, manager: ServiceManager) -> None:
    environ = {**os.environ, "NOTIFY_SOCKET": manager.address, "EC_STATUS_PORT": "1e9"}
    command = [sys.executable, str(ROOT / "ec_server_main.py")]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert not manager.hears("READY=1")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    text = UNIT.read_text()
    # The program and its user are not installed here; everything else is the unit's own.
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text)
    text = re.sub(r"Documentation=\S+", "Documentation=https://example.org", text)
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr


def test_the_unit_gives_no_more_rights_than_the_server_needs() -> None:
    analyze = need("systemd-analyze", "systemd")
    command = [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", "--no-pager"]
    done = subprocess.run([*command, str(UNIT)], capture_output=True, text=True, check=False)
    level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert level is not None
    assert level[1] in (ROOT / "deploy" / "README.md").read_text()


def open_to_others(folder: Path) -> list[str]:
    """Files and folders below that group or others may use in any way."""
    return [
        f"{path} {stat.filemode(path.lstat().st_mode)}"
        for path in [folder, *folder.rglob("*")]
        if path.lstat().st_mode & 0o077
    ]


def test_nobody_else_can_read_what_the_whole_server_writes(tmp_path: Path) -> None:
    former = os.umask(0o000)  # the worst that a shell can hand on
    try:
        with RunningServer(tmp_path) as server:
            server.start(EC_STORAGE_MIN_FREE_MB="0")
            with Peer("TCP", server.sip_port) as peer:
                for second in (int(time.time()), 1_000_000_000):  # one to store, one for the quarantine
                    assert peer.ask(f"meter-1|{second}|000001,1||".encode()) == 200
            server.wait_for_figure("ec_batches_stored_total", 1)
            server.wait_for_figure("ec_messages_rejected_total", 1)
            assert server.stop() == 0
        written = {path.name for path in (tmp_path / "data").rglob("*") if path.is_file()}
        assert any(name.startswith("ec-") for name in written)
        assert any("quarantine" in name for name in written), written
        assert open_to_others(tmp_path / "data") == []
    finally:
        os.umask(former)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_makes_its_files_private_before_it_does_anything(program: str) -> None:
    main = next(
        node
        for node in ast.walk(ast.parse((ROOT / program).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    calls = [
        ast.unparse(node.func)
        for statement in main.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    ]
    assert "make_files_private" in calls
    for later in ("log.set_up", "launch", "read_settings"):
        if later in calls:
            assert calls.index("make_files_private") < calls.index(later)
