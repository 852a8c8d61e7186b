"""The list of many devices and a device's page, in a real browser: every state, width and scheme."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from status_site import Site, prove, text, too_wide, until
from stored_data import store_second

from ec_server.account.round_journal import note_round
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.message import text_batches
from reference_client.waveform import Waveform
from utilities.utc import ec_date, minute_of, minute_text, second_text

pytestmark = pytest.mark.browser

MANY = 2_000


def many(site: Site) -> None:
    site.sending.update({f"meter-{number:04d}": 100.0 + number for number in range(MANY)})
    until(lambda: b"2,000 devices" in page(site), "2,000 devices")


def page(site: Site, path: str = "") -> bytes:
    body: bytes = urllib.request.urlopen(f"{site.url}{path}").read()
    return body


def listed(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#rows tr')].map(r => r.id)"
    return [str(row).removeprefix("row-") for row in browser.execute_script(script)]


def test_two_thousand_devices_come_in_pages(site: Site, browser: Any) -> None:
    many(site)
    browser.get(site.url)
    assert len(listed(browser)) == 50
    assert "2,000 devices, page 1 of 40" in text(browser, "#pages")
    browser.execute_script("document.querySelector('#pages a[rel=next]').click()")
    until(lambda: listed(browser)[0] == "meter-0050", "the second page")
    assert browser.current_url.endswith("page=2")
    assert browser.get_log("browser") == []


def test_a_search_finds_and_says_when_it_does_not(site: Site, browser: Any) -> None:
    many(site)
    browser.get(site.url)
    box = browser.find_element("css selector", "#q")
    box.send_keys("er-1234")
    until(lambda: listed(browser) == ["meter-1234"], "the device")
    box.send_keys("x")
    until(lambda: "No device matches" in text(browser, "#pages"), "the answer")
    assert listed(browser) == []


def test_the_order_is_that_of_the_column_that_is_chosen(site: Site, browser: Any) -> None:
    many(site)
    browser.get(site.url)
    link = browser.find_element("link text", "Samples/s")
    browser.execute_script("arguments[0].click()", link)
    until(lambda: listed(browser)[0] == "meter-1999", "the fastest device")
    assert listed(browser)[:3] == ["meter-1999", "meter-1998", "meter-1997"]


def test_only_changes_are_on_the_wire(site: Site) -> None:
    many(site)
    first = json.loads(page(site, "api/page"))
    have = ".".join(hash for _, hash in first["parts"] + first["rows"])
    site.sending["meter-0007"] = 77_777.0

    def changed() -> dict[str, str] | None:
        found = json.loads(page(site, f"api/page?have={have}"))["html"]
        return found if any("77,777" in html for html in found.values()) else None

    html = until(changed, "the change")
    rows = [text for text in html.values() if "<tr" in text]
    assert len(rows) == 1
    assert len(json.dumps(html)) < 4_000


def test_the_first_look_is_small_and_quick_with_many_devices(site: Site, browser: Any) -> None:
    many(site)
    assert len(page(site)) < 60_000
    browser.get(site.url)
    requested = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(site.url) for name in requested)
    assert not any("plotly" in name for name in requested)


def test_the_empty_page_gives_the_command_that_connects_a_meter(site: Site, browser: Any) -> None:
    browser.get(site.url)
    command = text(browser, "#first-meter code")
    assert command == "python -m reference_client --server 127.0.0.1:34567 --sync 127.0.0.1:27979"
    site.sending["meter-1"] = 1.0
    until(lambda: "meter-1" in text(browser, "#rows"), "the device")
    assert text(browser, "#first-meter") == ""
    assert browser.get_log("browser") == []


def test_what_is_wrong_is_shown_with_its_beginning_and_what_to_do(site: Site, browser: Any) -> None:
    site.pages["receiver-0"].set_state("degraded", "cannot write: disk full")
    until(lambda: b"disk full" in page(site), "the fault")
    browser.get(site.url)
    said = text(browser, "#health")
    assert "receiver-0 is degraded: cannot write: disk full" in said
    assert f"Since {time.strftime('%Y-%m-%d', time.gmtime())}" in said
    assert "Free disk space" in said
    assert browser.find_elements("css selector", "h1 .tone.attention")
    assert browser.get_log("browser") == []


# --- a device -----------------------------------------------------------------------------------


@pytest.fixture
def minute(site: Site) -> int:
    """A device with a proven minute, a minute of one full second, a gap between, and a round."""
    prove(site, "meter-1", 8)
    minute = minute_of(int(time.time())) - 300
    with SqliteStore(site.folder) as store:
        store_second(store, "meter-1", minute + 7, text_batches(Waveform(1).second(minute)))
        store.second_digests("meter-1", minute)
    round_line = {"device": "meter-1", "ended": minute + 60.0, "took_s": 1.25, "through": minute}
    note_round(
        site.folder / "run", {**round_line, "compared": 3, "repaired": 4711, "unresolved": 0, "extra": 0}
    )
    until(lambda: b"meter-1" in page(site), "the device")
    return minute


def drawn(browser: Any, place: str = "#power") -> bool:
    return bool(browser.execute_script(f"return document.querySelector('{place} .main-svg') !== null"))


def states(browser: Any) -> set[str]:
    script = "return [...document.querySelectorAll('.heat td')].map(c => c.className)"
    return {str(name).removeprefix("s-") for name in browser.execute_script(script)}


def test_a_day_shows_each_minute_and_power(site: Site, browser: Any, minute: int) -> None:
    browser.get(f"{site.url}devices/meter-1?at={ec_date(minute)}")
    assert {"proven", "stored", "missing", "future"} <= states(browser) | {"future"}
    until(lambda: drawn(browser), "the chart")
    until(lambda: "Lowest, mean and highest" in text(browser, "#power-note"), "its note")
    assert "4,711" in text(browser, "section[aria-labelledby=rounds-title]")
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("level", ["month", "minute", "second"])
def test_every_level_draws_without_an_error(site: Site, browser: Any, minute: int, level: str) -> None:
    keys = {"month": ec_date(minute)[:6], "minute": minute_text(minute), "second": second_text(minute + 7)}
    browser.get(f"{site.url}devices/meter-1?at={keys[level]}")
    until(lambda: drawn(browser), "the chart")
    until(lambda: "…" not in text(browser, "#power-note"), "the note")
    assert browser.get_log("browser") == []


def test_one_goes_down_from_the_month_to_the_waveform_by_links(site: Site, browser: Any, minute: int) -> None:
    browser.get(f"{site.url}devices/meter-1?at={ec_date(minute)[:6]}")
    for key in (ec_date(minute), minute_text(minute), second_text(minute + 7)):
        link = browser.find_element("css selector", f'.heat a[href$="at={key}"]')
        browser.execute_script("arguments[0].click()", link)
        until(lambda key=key: browser.current_url.endswith(key), f"the view {key}")
    assert "44,000" in text(browser, "section[aria-labelledby=wave-title]")
    until(lambda: drawn(browser, "#harmonics"), "the harmonics")
    until(lambda: "44,000 samples, as stored" in text(browser, "#power-note"), "the waveform")
    assert browser.get_log("browser") == []


def test_power_is_not_drawn_across_a_gap(site: Site, browser: Any, minute: int) -> None:
    with SqliteStore(site.folder) as store:
        store_second(store, "meter-1", minute + 30, text_batches(Waveform(1).second(minute)))
    browser.get(f"{site.url}devices/meter-1?at={minute_text(minute)}")
    until(lambda: drawn(browser), "the chart")
    ends = (
        "return document.getElementById('power').data.map(line => [line.x[0], line.x.at(-1)])"
        ".map(both => both.map(time => time.slice(17, 19)))"
    )
    assert browser.execute_script(ends) == [["06", "07"]] * 3 + [["30", "30"]] * 3


def test_zooming_in_asks_for_finer_figures(site: Site, browser: Any, minute: int) -> None:
    browser.get(f"{site.url}devices/meter-1?at={minute_text(minute)}")
    until(lambda: drawn(browser), "the chart")
    zoom = "Plotly.relayout('power', {'xaxis.range[0]': arguments[0], 'xaxis.range[1]': arguments[1]})"
    moment = time.strftime("%Y-%m-%d %H:%M:", time.gmtime(minute))
    browser.execute_script(zoom, f"{moment}07.1", f"{moment}07.9")
    until(lambda: "44,000 samples, as stored" in text(browser, "#power-note"), "the waveform")


def test_it_is_readable_without_javascript(site: Site, browser: Any, minute: int) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{site.url}devices/meter-1?at={second_text(minute + 7)}")
        assert "RMS" in browser.find_element("css selector", "main").text
        browser.get(f"{site.url}devices/meter-1?at={ec_date(minute)}")
        assert len(browser.find_elements("css selector", ".heat td.s-proven")) == 1
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("level", ["month", "day", "minute", "second"])
def test_it_fits_every_width(site: Site, browser: Any, minute: int, level: str) -> None:
    keys = {
        "month": ec_date(minute)[:6],
        "day": ec_date(minute),
        "minute": minute_text(minute),
        "second": second_text(minute + 7),
    }
    assert too_wide(browser, f"{site.url}devices/meter-1?at={keys[level]}") == {}


def test_the_keyboard_reaches_the_content_and_every_day(site: Site, browser: Any, minute: int) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(f"{site.url}devices/meter-1?at={ec_date(minute)[:6]}")
    body = browser.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.text == "Skip to the content"
    reachable = "return [...document.querySelectorAll('.heat tbody th a')].every(a => a.tabIndex === 0)"
    assert browser.execute_script(reachable)


def test_a_page_of_an_unknown_device_says_that_it_is_unknown(site: Site, browser: Any) -> None:
    browser.get(f"{site.url}devices/nobody")
    assert text(browser, "h1") == "Not here"
    assert "There is no device nobody" in text(browser, "#explanation")


def test_what_a_device_calls_itself_cannot_be_html(site: Site, tmp_path: Path, browser: Any) -> None:
    browser.get(f"{site.url}?q=%3Cscript%3Ealert(1)%3C/script%3E&sort=%22%3E&page=-1")
    assert browser.find_elements("css selector", "main script") == []
    assert browser.get_log("browser") == []
