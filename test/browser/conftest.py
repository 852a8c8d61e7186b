"""A real browser, and a status server for it to look at."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from needs import need, unavailable
from status_site import Site, start, until

from ec_server.account.figures import RECEIVER_FIGURES, SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program, driver = need("chromium", "chromium"), need("chromedriver", "chromium-driver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        unavailable("selenium is missing: pip install -r requirements-dev.txt")
    options = Options()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


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
