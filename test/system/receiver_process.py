"""A receiver process in a folder and on a port of its own, as the launcher starts it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from free_ports import free_ports

from ec_server.account.figures import RUN_FOLDER, receiver_name
from ec_server.account.worker_page import WorkerPage

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 25.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Receiver:
    """A data_receiver.py process in a folder of its own."""

    def __init__(self, folder: Path, *, supervised: bool = False, **options: object) -> None:
        self.folder, self.data = folder, folder / "data"
        self.port = int(str(options.pop("sip.port", 0) or free_ports(1)[0]))
        given = {"sip.port": self.port, "storage.path": self.data, "storage.min_free_mb": 0, **options}
        config = folder / "config.properties"
        sections = {"sip": "SIP", "storage": "Storage", "ingest": "Ingest", "devices": "Devices"}
        config.write_text(
            "".join(f"[{sections[key.split('.')[0]]}]\n{key}={value}\n" for key, value in given.items())
        )
        self.log_path = folder / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "data_receiver.py"), "-c", str(config), "--worker", "3"],
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=log,
                env={"PATH": "/usr/bin", **({"EC_SUPERVISED": "1"} if supervised else {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8")

    def page(self) -> WorkerPage:
        return WorkerPage.open(self.data / RUN_FOLDER / f"{receiver_name(3)}.page")

    def state(self) -> str:
        try:
            page = self.page()
        except (OSError, ValueError):
            return ""
        with closing(page):
            return page.state()[0] if page.pid() == self.process.pid else ""

    def reason(self) -> str:
        with closing(self.page()) as page:
            return page.state()[1]

    def writer(self) -> int:
        """Process id of the writer of the moment; 0 while there is none."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if (
                parent == self.process.pid
                and (process / "cmdline").read_bytes().find(b"ec_server.ingest") >= 0
            ):
                return int(process.name)
        return 0

    def figures(self) -> dict[str, int]:
        with closing(self.page()) as page:
            return page.figures()

    def ready(self) -> Receiver:
        wait_until(lambda: self.state() == "ready" or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log
        return self

    def rows(self) -> list[tuple[str, str]]:
        """(device, values) of every stored row."""
        found: list[tuple[str, str]] = []
        for path in sorted(self.data.glob("ec-*.sqlite")):
            with closing(sqlite3.connect(path)) as database:
                if not database.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'ec_consumption'"
                ).fetchone():
                    continue  # the file is just being made
                found += database.execute("SELECT device_id, ec_consumption_values FROM ec_consumption")
        return sorted(found)

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()


StartReceiver = Callable[..., Receiver]
"""Starts one more, with these options of the configuration."""


def body(us: int, device: str = "meter-7", second: int | None = None) -> bytes:
    return f"{device}|{int(time.time()) if second is None else second}|{us:06d},{us}||".encode()
