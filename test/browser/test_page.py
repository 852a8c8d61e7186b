"""The page for people in a real browser: what it says, how it stays current, how it fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from needs import need, unavailable

from ec_server.account.figures import RECEIVER_FIGURES, SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.status.verdict import moment_text
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, MinuteState, Verdict
from utilities.utc import minute_of

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
WIDTHS = (320, 390, 768, 1280)

# Every text on the page with the colours it is shown in: [text, colour, background, size, weight].
TEXTS = """
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  let behind = element, background = "rgba(0, 0, 0, 0)";
  while (behind && background === "rgba(0, 0, 0, 0)") {
    background = getComputedStyle(behind).backgroundColor; behind = behind.parentElement;
  }
  found.push([text, style.color, background, parseFloat(style.fontSize), parseInt(style.fontWeight)]);
}
return found;
"""


def until(condition: Callable[[], object], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = need("chromium", "chromium"), need("chromedriver", "chromium-driver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        unavailable("selenium is missing: pip install -r requirements-dev.txt")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


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
    """What a part of the page shows; "" where there is no such part."""
    return str(browser.execute_script(f"return document.querySelector({css!r})?.innerText ?? ''"))


def test_it_says_through_when_the_data_is_proven_complete(site: Site, browser: Any) -> None:
    site.sending["meter-1"] = 44_000.0
    through = prove(site, "meter-1", 3)
    browser.get(site.url)
    expected = f"Complete through {moment_text(through, time.time())}"
    until(lambda: text(browser, "h1") == expected, "the verdict")
    assert browser.title == f"{expected} · Energy Consumption Server"
    assert "meter-1" in text(browser, "#devices")
    assert "44,000" in text(browser, "#devices")
    assert browser.get_log("browser") == []


def test_it_stays_current_by_itself(site: Site, browser: Any) -> None:
    browser.get(site.url)
    assert text(browser, "h1") == "No device heard yet"
    browser.execute_script("window.loadedOnce = true")
    site.sending["meter-new"] = 43_210.0
    page = site.pages["receiver-0"]
    page.count_received()
    page.apply({"stored": 1})
    until(lambda: "43,210" in text(browser, "#devices"), "the new device")
    until(lambda: "1" in text(browser, "#account dd"), "the account")
    assert text(browser, "h1") == "Not proven yet"
    prove(site, "meter-new", 2, MinuteState.UNRESOLVED)
    until(lambda: text(browser, "h1") == "1 minute could not be proven", "the new verdict")
    assert browser.execute_script("return window.loadedOnce") is True


def test_a_worker_in_trouble_is_named(site: Site, browser: Any) -> None:
    browser.get(site.url)
    assert text(browser, "#health") == ""
    site.pages["sync"].set_state("degraded", "no room")
    until(lambda: "sync is degraded: no room" in text(browser, "#health"), "the reason")


def test_it_says_when_the_server_no_longer_answers_and_recovers(site: Site, browser: Any) -> None:
    browser.get(site.url)
    site.process.kill()
    site.process.wait()
    until(lambda: "No answer" in text(browser, "#connection"), "the warning")
    site.process = start(site.folder, site.port)
    until(lambda: text(browser, "#connection") == "", "the recovery")


def test_it_works_without_javascript(site: Site, browser: Any) -> None:
    site.sending["meter-1"] = 44_000.0
    until(lambda: b"meter-1" in urllib.request.urlopen(site.url).read(), "the device")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(site.url)
        assert "Not proven" in browser.find_element("css selector", "h1").text
        assert "meter-1" in browser.find_element("css selector", "#devices").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_every_width(site: Site, browser: Any, width: int) -> None:
    site.sending.update({"meter-1": 44_000.0, "m" * 64: 44_000.0})
    prove(site, "m" * 64, 500)
    until(lambda: b"m" * 64 in urllib.request.urlopen(site.url).read(), "the device")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get(site.url)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(site: Site, browser: Any, scheme: str) -> None:
    site.sending.update({"behind": 44_000.0, "waiting": 1.0, "differing": 1.0, "proven": 1.0})
    for device, ago_min, state in (
        ("behind", 500, MinuteState.PROVEN),
        ("differing", 3, MinuteState.UNRESOLVED),
        ("proven", 3, MinuteState.PROVEN),
    ):
        prove(site, device, ago_min, state)
    site.pages["sync"].set_state("degraded", "no room")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(site.url)
    until(lambda: "differing" in text(browser, ".standing.differing"), "the verdicts")
    shown = browser.execute_script(TEXTS)
    assert len(shown) > 40
    for words, colour, background, size_px, weight in shown:
        large = size_px >= 24 or (size_px >= 18.66 and weight >= 700)
        assert contrast(colour, background) >= (3 if large else 4.5), (words, colour, background)


def test_its_structure_can_be_heard(site: Site, browser: Any) -> None:
    site.sending["meter-1"] = 44_000.0
    until(lambda: b"meter-1" in urllib.request.urlopen(site.url).read(), "the device")
    browser.get(site.url)
    ask = browser.execute_script
    assert ask("return document.documentElement.lang") == "en"
    assert ask("return document.querySelectorAll('h1').length") == 1
    assert ask("return document.querySelector('h1').getAttribute('aria-live')") == "polite"
    assert ask("return [...document.querySelectorAll('thead th')].every(h => h.scope === 'col')")
    assert ask("return [...document.querySelectorAll('tbody th')].every(h => h.scope === 'row')")
    assert ask("return [...document.querySelectorAll('svg')].every(s => s.ariaHidden === 'true')")
    assert ask("return document.querySelectorAll('[style], style, script:not([src])').length") == 0
