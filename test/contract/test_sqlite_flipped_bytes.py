"""One changed byte anywhere in a day's file or in progress.db: what it costs heals from the meter.

Bytes are changed where there are rows, blocks, digests and verdicts, and what leads to them. Rounds compare
what is read with what the meter has, repair it and record the verdict, as a synchronization does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from foreign_sqlite import by_hand

from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import minute_digest, parse_canonical, second_digest
from utilities.model import Digest, MinuteState, Verdict
from utilities.utc import DAY_S, ec_time

NOON = 1_772_366_400
DAY_FILE = "ec-20260301.sqlite"
MINUTES = (NOON, NOON + 60, NOON + 120)
STOP = MINUTES[-1] + 60
SENT = {
    second: [batch_of("meter", second, f"{us:06d},{second % 60}.{us}") for us in (0, 500_000)]
    for minute in MINUTES
    for second in (minute, minute + 3, minute + 7)
}
TEXTS = {second: ";".join(batch.values for batch in batches) for second, batches in SENT.items()}
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
HEADER = 100
NEAR = 40
"""Bytes from one that is not 0: what is far from all of them is free space."""


def digest_of(minute: int) -> Digest:
    seconds = [(second, second_digest(TEXTS[second])) for second in SENT if minute <= second < minute + 60]
    found = minute_digest((ec_time(second), *digest) for second, digest in seconds if digest is not None)
    assert found is not None
    return Digest(*found)


def has_all(store: SqliteStore, minute: int) -> bool:
    """Whether every sample of the meter's minute is stored with its value."""
    return all(
        parse_canonical(text).items() <= parse_canonical(store.second_text("meter", second)).items()
        for second, text in TEXTS.items()
        if minute <= second < minute + 60
    )


def one_round(store: SqliteStore, *, audit: bool) -> None:
    have = dict(store.minute_digests("meter", NOON, STOP, from_rows=audit))
    for minute in MINUTES:
        if have.get(minute) != digest_of(minute):
            store.repair([b for second in SENT if minute <= second < minute + 60 for b in SENT[second]])
        seen = dict(store.minute_digests("meter", minute, minute + 60)).get(minute)
        state = MinuteState.PROVEN if has_all(store, minute) else MinuteState.UNRESOLVED
        store.record_verdicts("meter", [Verdict(minute, state, seen)], minute * 1_000_000)


def use_everything(store: SqliteStore) -> None:
    """What the server's processes and pages call besides."""
    list(store.rows("meter", NOON, STOP))
    store.row_counts("meter", NOON, STOP)
    store.minutes("meter", NOON, STOP)
    store.checks("meter", NOON)
    store.ranges_in("meter", NOON, STOP, [MinuteState.UNRESOLVED])
    store.replaced_rows("meter", NOON, STOP)
    store.earliest_minute("meter")
    store.latest_second()
    store.stored_days()
    store.devices()
    store.minutes_without_digest(STOP)
    store.count_unpacked(NOON + 3 * DAY_S)
    store.stored_bytes()
    store.health()
    pack(store)


def pack(store: SqliteStore) -> None:
    for device_id, minute in store.unpacked_minutes(NOON + 3 * DAY_S, 100):
        store.pack_minute(device_id, minute)


def filled(folder: Path, *, is_packed: bool) -> Path:
    """A folder with a proven day; its day's file."""
    with SqliteStore(folder) as store:
        store.note_devices({"meter": 1})
        for batches in SENT.values():
            store.ingest(batches)
        if is_packed:
            pack(store)
        store.note_coverage("meter", NOON)
        store.note_reopened("meter", [(NOON - 600, NOON - 300)])
        store.record_verdicts("meter", [Verdict(NOON - 60, MinuteState.EMPTY, None)], NOON * 1_000_000)
        one_round(store, audit=False)
        assert store.unproven_ranges("meter", NOON, STOP) == []
    return folder / DAY_FILE


def places(content: bytes) -> list[int]:
    """Where a byte is worth changing. A header may say that the file is of a later SQLite: read-only."""
    return [i for i in range(HEADER, len(content)) if any(content[max(0, i - NEAR) : i + NEAR])]


def changed(content: bytes, chance: random.Random, count: int) -> Iterator[tuple[int, bytes]]:
    for place in chance.sample(places(content), count):
        after = bytearray(content)
        after[place] ^= chance.choice([0x01, 0x04, 0x20, 0x30, 0x80, 0xFF])
        yield place, bytes(after)


@pytest.mark.parametrize(
    ("name", "is_packed"),
    [(DAY_FILE, False), (DAY_FILE, True), ("progress.db", False)],
    ids=["rows", "blocks", "progress"],
)
@pytest.mark.parametrize(
    ("seed", "count"), [(1, 40), pytest.param(2, 3000, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])]
)
def test_a_changed_byte_costs_its_minute_or_its_day_and_heals_from_the_meter(
    tmp_path: Path, seed: int, count: int, name: str, is_packed: bool
) -> None:
    filled(tmp_path, is_packed=is_packed)
    file = tmp_path / name
    for place, content in changed(file.read_bytes(), random.Random(seed), count):
        with TemporaryDirectory(dir=IN_MEMORY) as folder:
            shutil.copytree(tmp_path, folder, dirs_exist_ok=True)
            (Path(folder) / file.name).write_bytes(content)
            with SqliteStore(Path(folder)) as store:
                one_round(store, audit=True)
                use_everything(store)
                one_round(store, audit=True)
                one_round(store, audit=False)
                assert [m for m in MINUTES if not has_all(store, m)] == [], f"byte {place}"
                assert store.unproven_ranges("meter", NOON, STOP) == [], f"byte {place}"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ec_consumption SET ec_time = '126103' WHERE ec_time = '120103'",
        "UPDATE ec_consumption SET ec_time = '12010z' WHERE ec_time = '120103' AND start_us = '000000'",
        "UPDATE ec_consumption SET device_id = x'ff' WHERE ec_time = '120103'",
        "UPDATE ec_consumption SET insert_time = CAST(x'ff' AS TEXT) WHERE ec_time = '120103'",
        "UPDATE ec_consumption SET start_us = CAST(x'ff' AS TEXT) WHERE ec_time = '120103'",
        "UPDATE ec_minute SET ec_time = '12z100' WHERE ec_time = '120100'",
        "UPDATE ec_minute SET state = 'probably', check_time = 'today' WHERE ec_time = '120100'",
        "UPDATE ec_checksum SET ec_time = '12010z' WHERE ec_time = '120103'",
        "UPDATE ec_checksum SET values_checksum = CAST(x'ff' AS TEXT) WHERE ec_time = '120103'",
        "UPDATE ec_block SET ec_time = '126103' WHERE ec_time = '120203'",
    ],
)
def test_an_unreadable_line_of_another_program_costs_only_its_minute(tmp_path: Path, statement: str) -> None:
    file = filled(tmp_path, is_packed=False)
    with SqliteStore(tmp_path) as store:
        store.pack_minute("meter", MINUTES[2])
    by_hand(file, statement)
    with SqliteStore(tmp_path) as store:
        for audit in (True, False):
            use_everything(store)
            one_round(store, audit=audit)
        assert [m for m in MINUTES if not has_all(store, m)] == []
        assert store.unproven_ranges("meter", NOON, STOP) == []
    assert list(tmp_path.glob("*.damaged*")) == []
