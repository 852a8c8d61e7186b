"""What the page shows, before it is HTML: cells, lists, the last hour, a second's figures, the journal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.account import round_journal
from ec_server.account.round_journal import FILE_NAME, latest_rounds, note_round
from ec_server.export.minute_lines import MinuteLine
from ec_server.export.spectrum import waveform_of
from ec_server.status.advice import advice
from ec_server.status.device_list import PAGE_SIZE, Query, device_page
from ec_server.status.forgotten_devices import FILE_NAME as FORGOTTEN
from ec_server.status.forgotten_devices import forget, read_forgotten, without_forgotten
from ec_server.status.heat_map import STATES, day_rows, minute_rows, month_rows, view_of
from ec_server.status.history import History
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.snapshot import Account
from reference_client.message import MICROSECONDS
from utilities.model import DeviceRecord

NOON = 1_772_366_400  # 2026-03-01 12:00 UTC
NOW = NOON + 600.0


def line(minute: int, state: str = "unproven", rows: int = 0) -> MinuteLine:
    return MinuteLine(minute, state, rows * 44, rows, 0, 0, False, None)


# --- completeness -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "level", "length_s"),
    [
        ("202603", "month", 31 * 86_400),
        ("202602", "month", 28 * 86_400),
        ("20260301", "day", 86_400),
        ("202603011200", "minute", 60),
        ("20260301120007", "second", 1),
    ],
)
def test_a_key_names_a_view(key: str, level: str, length_s: int) -> None:
    view = view_of(key, NOON)
    assert (view.level, view.stop - view.start, view.key) == (level, length_s, key)


@given(st.text(max_size=20))
def test_whatever_is_asked_for_there_is_a_view(key: str) -> None:
    view = view_of(key, NOON)
    assert view.level == "day" or key == view.key
    assert view.start < view.stop


def test_a_minute_is_what_is_known_of_it() -> None:
    lines = [
        line(NOON, "proven", 9),
        line(NOON + 60, rows=9),
        line(NOON + 120),
        line(NOON + 180, "empty"),
        line(NOON + 240, "unconfirmable", 9),
        line(NOON + 300, "unresolved", 9),
        line(NOON + 3540),
    ]
    rows = day_rows(view_of("20260301", NOON), [line(NOON - 60), *lines], NOON, NOW)
    cells = [cell.state for cell in rows[12].cells]
    assert cells == ["proven", "stored", "missing", "empty", "unconfirmable", "unresolved", "future"]
    assert [cell.state for cell in rows[11].cells] == ["before"]
    assert len(rows) == 24


@settings(deadline=None)
@given(st.lists(st.sampled_from(["proven", "empty", "unconfirmable", "unresolved"]), min_size=1, max_size=60))
def test_an_hour_is_as_bad_as_its_worst_minute(states: list[str]) -> None:
    lines = [line(NOON + 60 * i, state, 1) for i, state in enumerate(states)]
    rows = month_rows(view_of("202603", NOON), lines, NOON, NOW)
    assert len(rows) == 31
    assert all(len(row.cells) == 24 for row in rows)
    cell = rows[0].cells[12]
    assert cell.state == min(states, key=STATES.index)
    assert f"{states.count(cell.state)} {cell.state}" in cell.label


def test_a_second_without_samples_in_a_minute_that_has_some_is_missing() -> None:
    rows = minute_rows(view_of("202603011200", NOON), {NOON: 44_000}, "proven")
    assert [len(row.cells) for row in rows] == [10] * 6
    assert [cell.state for cell in rows[0].cells[:2]] == ["proven", "missing"]
    assert (rows[0].cells[0].key, rows[0].cells[1].key) == ("20260301120000", "")


# --- the list -----------------------------------------------------------------------------------


def device(name: str, **of_record: int) -> DeviceStatus:
    given: dict[str, int | None] = {"verified_through": int(NOW) - 60, **of_record}
    return DeviceStatus(DeviceRecord(name, 0, int(NOW * 1e6), **given), 1.0)  # type: ignore[arg-type]


DEVICES = [device(f"m-{i:03d}") for i in range(120)] + [device("z-differs", unresolved_minutes=2)]


def shown(**parameters: str) -> list[str]:
    names = {"m-007": "Cellar"}
    page = device_page(DEVICES, names, Query.of(parameters), NOW, 2_400.0)
    return [row.device_id for row in page.rows]


def test_what_needs_attention_is_listed_first() -> None:
    assert shown()[:2] == ["z-differs", "m-000"]
    assert shown(sort="id")[0] == "m-000"


def test_a_search_finds_ids_names_and_states() -> None:
    assert shown(q="M-11") == [f"m-11{i}" for i in range(10)]
    assert shown(q="cell") == ["m-007"]
    assert shown(q="differing") == ["z-differs"]


def test_pages_hold_everything_once() -> None:
    pages = [shown(sort="id", page=str(number)) for number in (1, 2, 3)]
    assert [len(page) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 21]
    assert sorted(name for page in pages for name in page) == sorted(one.record.device_id for one in DEVICES)
    assert shown(sort="id", page="99") == pages[2]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["q", "sort", "page"]), st.text(max_size=8)))
def test_no_query_fails(parameters: dict[str, str]) -> None:
    device_page(DEVICES, {}, Query.of(parameters), NOW, 2_400.0)


# --- the last hour ------------------------------------------------------------------------------


def account(received: int) -> Account:
    return Account(received, received, 0, 0, 0, 0, 0)


def test_the_history_tells_what_has_risen_in_an_hour_at_most() -> None:
    history = History()
    assert history.risen("received", 5) == 0
    for minute in range(121):
        history.note(minute * 60.0, account(minute * 10))
    assert 3600 <= history.span_s <= 3660
    assert history.risen("received", 1200) in (600, 610)
    assert not history.due(120 * 60.0 + 1)
    assert history.due(120 * 60.0 + 60)


def test_a_reason_keeps_its_beginning_while_it_holds_and_whatever_numbers_it_names() -> None:
    history = History()
    assert history.since(("sync has not answered for 11 s",), 100.0) == {
        "sync has not answered for 11 s": 100.0
    }
    assert history.since(("sync has not answered for 12 s",), 101.0) == {
        "sync has not answered for 12 s": 100.0
    }
    assert history.since((), 102.0) == {}
    assert history.since(("sync has not answered for 11 s",), 103.0) == {
        "sync has not answered for 11 s": 103.0
    }


def test_every_reason_has_advice() -> None:
    for reason in (
        "sync is starting",
        "storage takes no writes: disk full",
        "receiver-0: it has no page: never",
    ):
        assert advice(reason) != advice("something else")
    assert advice("something else")


# --- a second -----------------------------------------------------------------------------------


def test_the_figures_of_a_second_are_those_of_its_waveform() -> None:
    moments = MICROSECONDS / 1e6
    values = 300 + 200 * np.cos(2 * np.pi * 100 * moments) + 25 * np.sin(2 * np.pi * 350 * moments)
    wave = waveform_of(MICROSECONDS.astype(np.int64), values)
    assert wave
    assert abs(wave.mean - 300) < 0.01
    assert abs(wave.rms - np.sqrt(300**2 + 200**2 / 2 + 25**2 / 2)) < 0.01
    amplitudes = {hertz: amplitude for _, hertz, amplitude in wave.harmonics}
    assert abs(amplitudes[100] - 200) < 0.1
    assert abs(amplitudes[350] - 25) < 0.1
    assert amplitudes[50] < 0.1
    assert len(wave.harmonics) == 20


def test_few_samples_show_no_frequency_and_none_no_figures() -> None:
    few = waveform_of(np.array([0, 500_000]), np.array([1.0, 3.0]))
    assert few
    assert (few.mean, few.harmonics) == (2.0, ())
    assert waveform_of(np.array([], np.int64), np.array([])) is None


# --- the journal and the forgotten --------------------------------------------------------------


def test_the_journal_gives_a_devices_latest_rounds_first(tmp_path: Path) -> None:
    for number in range(5):
        note_round(tmp_path, {"device": "a", "compared": number})
        note_round(tmp_path, {"device": "b", "compared": -number})
    assert [one["compared"] for one in latest_rounds(tmp_path, "a", 3)] == [4, 3, 2]
    assert latest_rounds(tmp_path, "c", 3) == []


def test_the_journal_is_bounded_and_survives_a_line_cut_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_journal, "_MOST_BYTES", 1_000)
    for number in range(200):
        note_round(tmp_path, {"device": "a", "compared": number})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"device": "a", "comp')
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000
    assert latest_rounds(tmp_path, "a", 1)[0]["compared"] == 199


def test_a_journal_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    note_round(tmp_path / "missing", {"device": "a"})
    assert latest_rounds(tmp_path / "missing", "a", 1) == []


def test_a_forgotten_device_is_known_again_once_it_is_heard(tmp_path: Path) -> None:
    forget(tmp_path, "a", 100)
    forget(tmp_path, "b", 100)
    quiet, back = (DeviceStatus(DeviceRecord("a", 0, us), 0.0) for us in (100, 101))
    assert without_forgotten([quiet], read_forgotten(tmp_path)) == []
    assert without_forgotten([back], read_forgotten(tmp_path)) == [back]
    assert json.loads((tmp_path / FORGOTTEN).read_text()) == {"a": 100, "b": 100}


@pytest.mark.parametrize("content", ["", "[]", '{"a": "x"}', "no json"])
def test_a_list_that_cannot_be_read_forgets_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FORGOTTEN).write_text(content)
    assert read_forgotten(tmp_path) == {}
