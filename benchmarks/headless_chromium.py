"""Debian's Chromium without a window, as benchmarks and tests of the page use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measured_program import BenchmarkError

_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@contextmanager
def headless_chromium(*, keep_console: bool = False) -> Iterator[Any]:
    """A browser; with ``keep_console`` its ``get_log("browser")`` has what pages wrote to the console.

    Raises BenchmarkError where the browser or selenium is missing, with what to install.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise BenchmarkError("Chromium is missing: apt-get install chromium chromium-driver")
    try:
        from selenium import webdriver  # noqa: PLC0415 (a development dependency)
        from selenium.webdriver.chrome.options import Options  # noqa: PLC0415
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415
    except ImportError as error:
        raise BenchmarkError("selenium is missing: pip install -r requirements-dev.txt") from error
    options = Options()
    options.binary_location = program
    for argument in _OPTIONS:
        options.add_argument(argument)
    if keep_console:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()
