"""A month of one meter in short days, with packing, loss, late messages and repairs: the disk stays flat."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from contract.store_suite import MIDNIGHT, check
from packed_rows import regular_clock, signal

from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, Digest, MinuteState
from utilities.utc import DAY_S, MINUTE_S

DAYS, MINUTES_A_DAY, SECONDS_A_MINUTE, SAMPLES, A_ROW = 30, 12, 6, 2200, 44
DEVICE = "m"


def messages(second: int) -> list[Batch]:
    """What the meter sends of a second."""
    us = regular_clock(SAMPLES)
    texts = [f"{at:06d},{value:.3f}" for at, value in zip(us, signal(SAMPLES, second))]
    return [batch_of(DEVICE, second, ";".join(texts[i : i + A_ROW])) for i in range(0, SAMPLES, A_ROW)]


def minutes_of(day: int) -> range:
    return range(day, day + MINUTES_A_DAY * MINUTE_S, MINUTE_S)


def seconds_of(minute: int) -> range:
    return range(minute, minute + SECONDS_A_MINUTE)


def repair_and_prove(store: SqliteStore, minute: int) -> None:
    """What a round does: compare each second with the meter's digest, fetch what differs, prove."""
    own = dict(store.second_digests(DEVICE, minute))
    for second in seconds_of(minute):
        sent = messages(second)
        text = ";".join(batch.values for batch in sent)
        if own.get(second) != Digest(SAMPLES, md5_hex(text)):
            store.repair(sent)
    assert check(store, DEVICE, minute, MinuteState.PROVEN) == []


def pack_all(store: SqliteStore, before: int) -> None:
    while minutes := store.unpacked_minutes(before, 100):
        for device_id, minute in minutes:
            store.pack_minute(device_id, minute)
    while store.return_space(before):
        pass


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_month_of_packing_loss_and_repair_loses_nothing_and_keeps_the_disk_flat(tmp_path: Path) -> None:
    choose = random.Random(30)
    days = [MIDNIGHT + i * DAY_S for i in range(DAYS)]
    sizes = []
    with SqliteStore(tmp_path) as store:
        store.note_devices({DEVICE: MIDNIGHT * 1_000_000})
        store.note_coverage(DEVICE, MIDNIGHT)
        late: list[Batch] = []
        for day in days:
            for minute in minutes_of(day):
                for second in seconds_of(minute):
                    sent = messages(second)
                    arrived = [batch for batch in sent if choose.random() > 0.02]
                    late += [batch for batch in sent if batch not in arrived and choose.random() < 0.5]
                    store.ingest(arrived)
                if choose.random() < 0.5:  # packed before it is compared
                    pack_all(store, minute + MINUTE_S)
                if choose.random() < 0.9:  # else the meter was away: a later round compares it
                    repair_and_prove(store, minute)
                if late and choose.random() < 0.3:  # late, and most of it again
                    store.ingest([*late[:5], *arrived[:5]])
                    late = late[5:]
            late.clear()
            for start, stop in store.unproven_ranges(DEVICE, day, day + DAY_S):
                for minute in minutes_of(day):
                    if start <= minute < stop:
                        repair_and_prove(store, minute)
            pack_all(store, day + 2 * DAY_S)
            sizes.append(sum(path.stat().st_size for path in tmp_path.glob("ec-*.sqlite*")))
        for day in days:
            for minute in minutes_of(day):
                for second in seconds_of(minute):
                    assert store.second_text(DEVICE, second) == ";".join(b.values for b in messages(second))
            spans = store.unproven_ranges(DEVICE, day, day + MINUTES_A_DAY * MINUTE_S)
            assert spans == []
        stored = store.stored_bytes()
    samples = DAYS * MINUTES_A_DAY * SECONDS_A_MINUTE * SAMPLES
    assert stored.blocks < 3 * samples
    assert stored.rows < DAYS * 160_000  # tables and digests of each file, no rows
    growth = [after - before for before, after in zip(sizes[1:], sizes[2:])]
    assert max(growth) < 2 * min(growth)
