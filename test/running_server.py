"""The whole server as its one command, in a folder and on ports of its own, for tests to talk to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from free_ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "127.0.0.1"


def wait_for(condition: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    """Wait for a condition; fail with what was waited for."""
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"waited {within_s} s in vain for {what}"
        time.sleep(0.02)


class RunningServer:
    """``python ec_server_main.py``; a context manager that leaves no process behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sip_port, self.sync_port, self.status_port = free_ports(3)
        self.log_path = folder / "server.log"
        self.environ: dict[str, str] = {}
        """Options of every start, and of the commands that open the same database."""
        self.process: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in self._pids:
            with suppress(psutil.NoSuchProcess):
                left = psutil.Process(pid)
                if any(str(ROOT) in word or "ec_server" in word for word in left.cmdline()):
                    left.kill()

    def start(self, **environ: str) -> None:
        """Start with options as ``EC_`` variables, and wait until it is ready."""
        own = {
            "EC_SIP_PORT": str(self.sip_port),
            "EC_SYNC_PORT": str(self.sync_port),
            "EC_STATUS_PORT": str(self.status_port),
            "EC_SIP_RECEIVERS": "1",
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(ROOT / "ec_server_main.py")],
                cwd=self.folder,
                env={**os.environ, **own, **self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, f"the server to be ready; its log: {self.log_path}", 60)
        self._pids |= {child.pid for child in psutil.Process(self.process.pid).children()}

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with suppress(httpx.HTTPError):
            return self.get("/readyz").status_code == 200
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order; its exit code."""
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            self._pids |= {child.pid for child in psutil.Process(self.process.pid).children()}
        self.process.send_signal(number)
        return self.process.wait(40)

    def get(self, path: str) -> httpx.Response:
        """A page of the status port."""
        return httpx.get(f"http://{LOOPBACK}:{self.status_port}{path}", timeout=10)

    def figure(self, name: str) -> int:
        """One unlabelled metric, or the sum over its labels."""
        lines = [line.split() for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        found = [float(value) for key, value in lines if key.partition("{")[0] == name]
        assert found, f"no metric {name}"
        return int(sum(found))

    def wait_for_figure(self, name: str, at_least: int, within_s: float = 30.0) -> None:
        """Wait until a metric has come so far."""
        wait_for(lambda: self.figure(name) >= at_least, f"{name} to reach {at_least}", within_s)

    def account_is_exact(self) -> bool:
        """Received = stored + duplicate + rejected + queued + spooled + lost, in one scrape."""
        text = self.get("/metrics").text
        sums: dict[str, int] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                key = name.partition("{")[0]
                sums[key] = sums.get(key, 0) + int(float(value))
        parts = (
            "ec_batches_stored_total",
            "ec_batches_duplicate_total",
            "ec_messages_rejected_total",
            "ec_queue_batches",
            "ec_spool_batches",
            "ec_batches_lost_total",
        )
        return sums["ec_messages_received_total"] == sum(sums[part] for part in parts)

    def devices(self) -> dict[str, dict[str, Any]]:
        """``/api/devices`` by device id."""
        return {device["device_id"]: device for device in self.get("/api/devices").json()}

    def log(self) -> str:
        """What the server has logged so far."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""
