"""The meter's local store: what it recorded is what it answers, whatever happened in between."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from reference_client.local_store import LocalStore, store_folder
from utilities.model import Digest

NOON = 1_772_366_400  # 2026-03-01T12:00:00Z


def text_of(second: int, count: int = 5) -> str:
    return ";".join(f"{i * 22:06d},{second % 100 + i}.5" for i in range(count))


@pytest.fixture
def store(tmp_path: Path):
    with_files = LocalStore(tmp_path / "meter", durable=False)
    yield with_files
    with_files.close()


def test_a_recorded_second_is_answered_with_its_text_and_digest(store: LocalStore):
    text = text_of(NOON)
    digest = store.record(NOON, text)
    assert digest == Digest(5, hashlib.md5(text.encode()).hexdigest())
    assert store.text(NOON) == text
    assert store.second_digests(NOON) == [(NOON, digest)]
    assert store.digest(NOON) == digest


def test_minute_digests_are_those_of_the_contract(store: LocalStore):
    for second in (NOON, NOON + 1, NOON + 59, NOON + 61, NOON + 3600):
        store.record(second, text_of(second))
    lines = "".join(
        f"1200{s:02d},5,{hashlib.md5(text_of(NOON + s).encode()).hexdigest()}\n" for s in (0, 1, 59)
    )
    expected = Digest(15, hashlib.md5(lines.encode()).hexdigest())
    found = store.minute_digests(NOON, NOON + 7200)
    assert [minute for minute, _ in found] == [NOON, NOON + 60, NOON + 3600]
    assert found[0] == (NOON, expected)
    assert [minute for minute, _ in store.minute_digests(NOON + 60, NOON + 3600)] == [NOON + 60]


def test_ranges_are_half_open_and_ascending(store: LocalStore):
    store.record(NOON, "000000,1;000022,2;000045,3;000068,4;999977,5")
    assert store.samples(NOON, [(22, 45)]) == "000022,2"
    assert store.samples(NOON, [(0, 1), (45, 69)]) == "000000,1;000045,3;000068,4"
    assert store.samples(NOON, [(0, 1_000_000)]) == store.text(NOON)
    assert store.samples(NOON, [(1, 22)]) == ""
    assert store.samples(NOON + 1, [(0, 1_000_000)]) == ""


def test_through_is_the_minute_being_recorded_and_nothing_once_recording_ended(store: LocalStore):
    assert store.through() is None
    store.begin(NOON + 30)
    assert store.through() == NOON
    store.record(NOON + 58, text_of(1))
    assert store.through() == NOON
    store.record(NOON + 59, text_of(2))
    assert store.through() == NOON + 60
    store.finish()
    assert store.through() is None


def test_a_second_recorded_again_replaces_the_earlier_one(store: LocalStore):
    store.record(NOON, text_of(1))
    store.record(NOON + 1, text_of(2))
    store.record(NOON, text_of(3, count=7))
    assert store.text(NOON) == text_of(3, count=7)
    assert [(s, d.count) for s, d in store.second_digests(NOON)] == [(NOON, 7), (NOON + 1, 5)]


def test_a_second_without_samples_has_no_digest(store: LocalStore):
    assert store.record(NOON + 59, "") is None
    assert store.second_digests(NOON) == []
    assert store.through() == NOON + 60


def test_a_reader_that_was_open_before_sees_what_is_recorded_afterwards(store: LocalStore):
    reader = LocalStore(store.folder)
    assert reader.oldest() is None
    store.record(NOON, text_of(NOON))
    assert reader.oldest() == NOON
    store.record(NOON + 1, text_of(NOON))
    assert len(reader.second_digests(NOON)) == 2


def test_a_store_that_forgot_everything_goes_on_recording(store: LocalStore):
    store.record(NOON, text_of(1))
    assert store.oldest() == NOON
    store.forget()
    assert store.oldest() is None
    assert store.minute_digests(NOON, NOON + 60) == []
    assert store.text(NOON) == ""
    store.record(NOON + 1, text_of(2))
    assert store.second_digests(NOON) == [(NOON + 1, store.digest(NOON + 1))]
    assert store.text(NOON + 1) == text_of(2)


def test_only_so_many_hours_are_kept_even_where_the_clock_leaps(tmp_path: Path):
    store = LocalStore(tmp_path, keep_hours=2, durable=False)
    year_ahead = NOON + 365 * 86400
    for second in (NOON, NOON + 3600, year_ahead):
        store.record(second, text_of(second))
    assert [m for m, _ in store.minute_digests(0, year_ahead + 60)] == [NOON + 3600, year_ahead]
    assert len(list(tmp_path.glob("*.values"))) == 2
    store.close()


def test_the_hour_being_recorded_stays_where_the_clock_stepped_back_behind_all_others(tmp_path: Path):
    store = LocalStore(tmp_path, keep_hours=2, durable=False)
    long_ago = NOON - 365 * 86400
    for second in (NOON, NOON + 3600, long_ago, long_ago + 1):
        store.record(second, text_of(second))
    assert store.text(long_ago + 1) == text_of(long_ago + 1)
    assert len(list(tmp_path.glob("*.values"))) == 2
    store.close()


def test_through_goes_back_with_the_clock_and_what_was_recorded_beyond_it_is_still_there(store: LocalStore):
    store.record(NOON + 600, text_of(1))
    assert store.through() == NOON + 600
    store.record(NOON + 59, text_of(2))
    assert store.through() == NOON + 60
    assert [minute for minute, _ in store.minute_digests(NOON, NOON + 3600)] == [NOON, NOON + 600]


def test_two_meters_cannot_record_into_one_store(store: LocalStore):
    store.begin(NOON)
    with pytest.raises(BlockingIOError):
        LocalStore(store.folder).begin(NOON)
    store.finish()
    second = LocalStore(store.folder)
    second.begin(NOON)
    second.close()


def test_a_line_half_written_and_values_without_a_line_cost_only_their_second(tmp_path: Path):
    store = LocalStore(tmp_path, durable=False)
    store.record(NOON, text_of(1))
    store.close()
    with next(tmp_path.glob("*.values")).open("ab") as file:
        file.write(b"never indexed")
    with next(tmp_path.glob("*.index")).open("ab") as file:
        file.write(b"1772366401 5 abc")
    again = LocalStore(tmp_path, durable=False)
    assert again.second_digests(NOON) == [(NOON, again.digest(NOON))]
    again.record(NOON + 2, text_of(2))
    assert [s for s, _ in again.second_digests(NOON)] == [NOON, NOON + 2]
    assert again.text(NOON) == text_of(1)
    assert again.text(NOON + 2) == text_of(2)
    again.close()


def test_lines_whose_values_did_not_reach_the_disk_are_not_offered(tmp_path: Path):
    store = LocalStore(tmp_path, durable=False)
    store.record(NOON, text_of(1))
    store.record(NOON + 1, text_of(2))
    store.close()
    values = next(tmp_path.glob("*.values"))
    os.truncate(values, values.stat().st_size - 1)
    assert [s for s, _ in LocalStore(tmp_path).second_digests(NOON)] == [NOON]


def test_a_device_id_of_dots_stays_under_its_root(tmp_path: Path):
    assert store_folder(tmp_path, "..").resolve().parent == tmp_path.resolve()


def test_everything_recorded_before_a_kill_is_answered_afterwards(tmp_path: Path):
    program = textwrap.dedent(f"""
        from pathlib import Path
        from reference_client.local_store import LocalStore
        store = LocalStore(Path({str(tmp_path)!r}))
        for i in range(100000):
            store.record({NOON} + i, f"000000,{{i}};000022,{{i}}.5")
            print(i, flush=True)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().splitlines()]
    child.wait(10)
    child.stdout.close()
    store = LocalStore(tmp_path)
    assert all(store.text(NOON + i) == f"000000,{i};000022,{i}.5" for i in said)
    store.record(NOON + 100, "000000,1")
    assert store.text(NOON + 100) == "000000,1"
    store.close()
