"""The page for people in a real browser: what it says, how it stays current, how it fits."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from status_site import Site, prove, start, text, too_wide, until

from ec_server.status.verdict import moment_text
from utilities.model import MinuteState

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]

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


def test_it_fits_every_width(site: Site, browser: Any) -> None:
    site.sending.update({"meter-1": 44_000.0, "m" * 64: 44_000.0})
    prove(site, "m" * 64, 500)
    until(lambda: b"m" * 64 + b" is proven through" in urllib.request.urlopen(site.url).read(), "the verdict")
    assert too_wide(browser, site.url) == {}


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
