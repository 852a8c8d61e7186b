"""A real browser, and a status server for it to look at."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from needs import unavailable
from status_site import Site, start, until

from benchmarks.headless_chromium import headless_chromium
from benchmarks.measured_program import BenchmarkError
from ec_server.account.figures import RECEIVER_FIGURES, SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with headless_chromium(keep_console=True) as started:
            yield started
    except BenchmarkError as missing:
        unavailable(str(missing))


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """The browser, on an empty page and with an empty log before and after the test."""
    yield chromium
    chromium.get("about:blank")  # or it would go on asking a server that is no more
    chromium.get_log("browser")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    (tmp_path / "run").mkdir()
    made = Site(tmp_path, port, start(tmp_path, port))
    for name, figures in (("receiver-0", RECEIVER_FIGURES), ("sync", SYNC_FIGURES)):
        page = made.pages[name] = WorkerPage.create(tmp_path / "run" / f"{name}.page", figures)
        page.beat()
        page.set_state("ready")
    beating = threading.Thread(target=made.live)
    beating.start()
    until(lambda: urllib.request.urlopen(made.url + "healthz").status == 200, "a healthy server")
    yield made
    made.over.set()
    beating.join()
    made.process.kill()
    made.process.wait()
    for page in made.pages.values():
        page.close()
