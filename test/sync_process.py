"""For the synchronization's tests: the real sync server as a process, with a database of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from free_ports import free_port

from ec_server.account.figures import SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.sync_answerer import Recorded, SyncAnswerer, SyncSettings
from utilities.utc import minute_of, minute_text

ROOT = Path(__file__).resolve().parents[1]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.02)
    return found


def an_hour_ago() -> int:
    """A minute whose hour is closed, and all on one side of midnight most of the time."""
    return minute_of(int(time.time())) - 3600


class SyncProcess:
    """``python sync_server.py`` on a port and in a folder of its own."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder, self.port = folder, free_port()
        self.data = folder / "data"
        self.environ = {
            **os.environ,
            "EC_SYNC_PORT": str(self.port),
            "EC_STORAGE_PATH": str(self.data),
            "EC_SYNC_SYNCFREQ": "30",
        } | {f"EC_{key.upper()}": value for key, value in options.items()}
        self.log_path = folder / "sync.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> SyncProcess:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "sync_server.py"], cwd=ROOT, env=self.environ, stderr=log, stdout=log
            )
        wait_for(lambda: self.state() == "ready" or (self.process and self.process.poll()), "the sync server")
        assert self.state() == "ready", self.log()
        return self

    def state(self) -> str:
        try:
            page = WorkerPage.open(self.data / "run" / "sync.page")
        except (OSError, ValueError):
            return ""
        try:
            return page.state()[0] if self.process and page.pid() == self.process.pid else ""
        finally:
            page.close()

    def figures(self) -> dict[str, int]:
        page = WorkerPage.create(self.data / "run" / "sync.page", SYNC_FIGURES)
        try:
            return page.figures()
        finally:
            page.close()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def store(self) -> SqliteStore:
        self.data.mkdir(parents=True, exist_ok=True)
        return SqliteStore(self.data)

    def audit(
        self, device: str, start: int, stop: int, timeout_s: float = 20.0
    ) -> tuple[int, dict[str, Any] | None, str]:
        """Exit code, report, and what was said on stderr."""
        span = ["--from", minute_text(start), "--to", minute_text(stop), "--timeout", str(timeout_s)]
        done = subprocess.run(
            [
                sys.executable,
                "sync_server.py",
                "--audit",
                device,
                *span,
                "--json",
                "--timeout",
                f"{timeout_s}",
            ],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            timeout=timeout_s + 20,
            check=False,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr.decode()

    def meter(self, device_id: str, recorded: Recorded, **more: Any) -> SyncAnswerer:
        """A meter that stays connected; start it, and stop it at the end."""
        given = {"first_wait_s": 0.05, "longest_wait_s": 0.2} | more
        return SyncAnswerer(SyncSettings("127.0.0.1", self.port, device_id, **given), recorded)

    def connect(self) -> RawPeer:
        return RawPeer(self.port)


class RawPeer:
    """A socket that says whatever a test wants."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.settimeout(20)
        self.buffer = b""

    def send(self, frame: dict[str, Any] | bytes) -> None:
        self.socket.sendall(frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b"\n")

    def line(self) -> dict[str, Any] | None:
        """The next frame; None if the server closed."""
        while b"\n" not in self.buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def hello(self, device: str, **more: Any) -> dict[str, Any] | None:
        self.send({"type": "hello", "protocol": 1, "device": device} | more)
        return self.line()

    def error(self) -> str:
        """The code of the ``error`` that ends the connection; what comes before it is skipped."""
        code = ""
        while (frame := self.line()) is not None:
            code = frame["code"] if frame["type"] == "error" else code
        return code

    def close(self) -> None:
        self.socket.close()
