"""A status process over a folder, with the test in the place of the other workers, asked over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from free_ports import free_port

from ec_server.account.figures import RECEIVER_FIGURES, SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage

ROOT = Path(__file__).parents[1]
DEADLINE_S = 15.0


def until(
    condition: Callable[[], object],
    what: str,
    deadline_s: float = DEADLINE_S,
    passing: tuple[type[Exception], ...] = (OSError, http.client.HTTPException),
) -> Any:
    """Ask again until it holds; its value. What is ``passing`` is no answer yet."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except passing:
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


@dataclass
class Running:
    """A status process over a data folder whose other workers are this test."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    pages: dict[str, WorkerPage] = field(default_factory=dict)

    def beat(self) -> None:
        for page in self.pages.values():
            page.beat()

    def get(self, path: str) -> tuple[int, Any]:
        self.beat()
        status, _, body = ask(self.port, path)
        return status, json.loads(body)


def launch(folder: Path, port: int, **environment: str) -> subprocess.Popen[bytes]:
    configuration = folder / "config.properties"
    configuration.write_text(
        f"[SIP]\nsip.receivers=2\n[Storage]\nstorage.path={folder / 'data'}\nstorage.min_free_mb=1\n"
        f"[Status]\nstatus.port={port}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "ec_server.status", "-c", str(configuration)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stderr):
        if stream:
            stream.close()


def make_pages(running: Running) -> None:
    """Pages of workers that are ready, all figures 0."""
    names = {"receiver-0": RECEIVER_FIGURES, "receiver-1": RECEIVER_FIGURES, "sync": SYNC_FIGURES}
    for name, figures in names.items():
        path = running.folder / "run" / f"{name}.page"
        path.unlink(missing_ok=True)
        if name in running.pages:
            running.pages[name].close()
        page = running.pages[name] = WorkerPage.create(path, figures)
        page.beat()
        page.set_state("ready")


def serving(folder: Path) -> Iterator[Running]:
    port = free_port()
    (folder / "data" / "run").mkdir(parents=True)
    running = Running(folder / "data", port, launch(folder, port))
    make_pages(running)
    until(lambda: running.get("/healthz")[0] == 200, "a healthy answer")
    yield running
    end(running.process)
    for page in running.pages.values():
        page.close()
