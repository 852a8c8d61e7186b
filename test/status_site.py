"""A status process and, in the place of the other workers, the test: what the browser tests stand on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import status_process

from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, MinuteState, Verdict
from utilities.utc import minute_of

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
WIDTHS = (320, 390, 768, 1280)


def until(condition: Callable[[], object], what: str) -> Any:
    """As in status_process.py, with a browser's patience."""
    return status_process.until(condition, what, DEADLINE_S, (OSError,))


@dataclass
class Site:
    """A status process, and this test in the place of the other workers."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    pages: dict[str, WorkerPage] = field(default_factory=dict)
    sending: dict[str, float] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def live(self) -> None:
        """Beat and write the live figures until the test is over."""
        while not self.over.wait(0.2):
            now = time.time()
            devices = {
                name: {"last_seen": now, "samples_per_second": rate} for name, rate in self.sending.items()
            }
            new = self.folder / "run" / "new"
            new.write_text(json.dumps({"written": now, "devices": devices}))
            new.replace(self.folder / "run" / "receiver-0.devices.json")
            for page in self.pages.values():
                page.beat()


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "EC_STORAGE_PATH": str(folder),
        "EC_STORAGE_MIN_FREE_MB": "1",
        "EC_STATUS_PORT": str(port),
        "EC_SIP_RECEIVERS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ec_server.status"], env={**os.environ, **environment}, cwd=folder
    )


def prove(site: Site, device: str, ago_min: int, state: MinuteState = MinuteState.PROVEN) -> int:
    """Store a minute of a device and put its verdict on record; through when that proves it."""
    minute = minute_of(int(time.time())) - ago_min * 60
    values = "000000,1.5;000022,2"
    with SqliteStore(site.folder) as store:
        store.ingest([Batch(device, minute, 0, 22, values, 2, md5_hex(values))])
        store.note_devices({device: minute * 1_000_000})
        ((_, seen),) = store.minute_digests(device, minute, minute + 60)
        store.record_verdicts(device, [Verdict(minute, state, seen)], int(time.time() * 1e6))
        store.note_coverage(device, minute)
    return minute + 60


def text(browser: Any, css: str) -> str:
    """What a part of the page shows; "" if there is no such part."""
    return str(browser.execute_script(f"return document.querySelector({css!r})?.innerText ?? ''"))


def too_wide(browser: Any, url: str) -> dict[int, int]:
    """How wide a page is on each width of screen, in pixels, where it is wider than the screen."""
    found = {}
    try:
        for width in WIDTHS:
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(url)
            found[width] = browser.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return {width: page for width, page in found.items() if page > width}
