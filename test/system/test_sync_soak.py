"""Minutes of the real thing: ten minutes at 44 kHz with every kind of loss, and kills at random moments."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign_sqlite import by_hand
from sync_meter import MemoryMeter, batch, stored_samples, text_of, waveform
from sync_process import SyncProcess, an_hour_ago, wait_for

from ec_server.storage.sqlite_store import SqliteStore
from reference_client.local_store import LocalStore
from utilities.checksum_util import parse_canonical
from utilities.model import Batch
from utilities.utc import DAY_S, ec_date, ec_time

DEVICE = "meter-7"
RATE, PER_MESSAGE = 44_000, 44


def ten_minutes() -> int:
    """The start of ten closed minutes of one UTC day."""
    start = an_hour_ago()
    return start if start % DAY_S < DAY_S - 600 else start - 1200


def messages(second: int) -> Iterator[Batch]:
    samples = waveform(second, RATE)
    ordered = sorted(samples)
    for at in range(0, RATE, PER_MESSAGE):
        yield batch(DEVICE, second, {us: samples[us] for us in ordered[at : at + PER_MESSAGE]})


class Damage:
    """Which messages arrive, by a seed, and how many samples do not."""

    def __init__(self, start: int, share: float, *, silent: bool) -> None:
        self.chance, self.start, self.share, self.silent = random.Random(20260301), start, share, silent
        self.missing, self.late = 0, list[Batch]()

    def arriving(self, second: int) -> list[Batch]:
        arrived = []
        for message in messages(second):
            drawn = self.chance.random()
            if (self.silent and self.start + 120 <= second < self.start + 180) or drawn < self.share:
                self.missing += message.count
            elif drawn < self.share + 0.01:
                arrived += [message, message]
            elif drawn < self.share + 0.02:
                self.late.append(message)
            else:
                arrived.append(message)
        if len(self.late) > 100:
            arrived += [self.late.pop(self.chance.randrange(len(self.late))) for _ in range(50)]
        return arrived


def fill(store: SqliteStore, damage: Damage, seconds: range) -> None:
    for second in seconds:
        store.ingest(damage.arriving(second))
    store.ingest(damage.late)
    store.note_devices({DEVICE: seconds.start * 1_000_000})


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("share", "hard"), [(0.05, True), (0.001, False)])
def test_ten_minutes_at_44_khz_end_equal_after_one_round(tmp_path: Path, share: float, hard: bool) -> None:
    start = ten_minutes()
    seconds = range(start, start + 600)
    recorded = LocalStore(tmp_path / "meter", durable=False)
    for second in seconds:
        recorded.record(second, text_of(waveform(second, RATE)))
    recorded.finish()
    server, damage = SyncProcess(tmp_path), Damage(start, share, silent=hard)
    altered, deleted, crossing_whole = start + 30, start + 300, 0
    with server.store() as store:
        fill(store, damage, seconds)
        before = {s: store.second_text(DEVICE, s).count(";") + 1 for s in (altered, deleted)}
    if hard:
        where = f"WHERE device_id = '{DEVICE}' AND ec_time ="
        file = server.data / f"ec-{ec_date(start)}.sqlite"
        change = "ec_consumption_values = replace(ec_consumption_values, ',', ',1')"
        by_hand(file, f"UPDATE ec_consumption SET {change} {where} '{ec_time(altered)}'")
        by_hand(file, f"DELETE FROM ec_consumption {where} '{ec_time(deleted)}'")
        damage.missing += before[deleted]
        crossing_whole = before[altered]

    server.start()
    meter = server.meter(DEVICE, recorded)
    begun = time.monotonic()
    meter.start()
    wait_for(lambda: meter.rounds, "the round", 900)
    took, sent = time.monotonic() - begun, meter.samples_sent
    meter.cut()
    wait_for(lambda: meter.rounds == 2, "a second round", 60)
    meter.stop()

    with server.store() as store:
        for second in seconds:
            found = dict[int, str]()
            for row, _, _ in store.rows(DEVICE, second, second + 1):
                found |= parse_canonical(row.values)
            assert found == waveform(second, RATE), second
        record = store.device(DEVICE)
    wrong = damage.missing + crossing_whole
    print(
        f"\n{share:.1%} lost: {damage.missing} samples missing, {crossing_whole} altered; {sent} crossed, "
        f"{sent / wrong:.3f} for each; round of {took:.1f} s, {600 / took:.0f} times real time"
    )
    assert record is not None
    assert record.conflicts == crossing_whole
    assert sent <= 1.2 * wrong
    assert meter.samples_sent == sent, "a second round moved samples"
    log = server.log()
    assert "seconds repaired, 0 minutes unresolved, 0 samples extra" in log
    assert server.stop() == 0


def kill_at_random_moments(folder: Path, seed: int, kills: int) -> None:
    """Kill the server, or cut the meter off, until ``kills`` are made; every device ends equal."""
    chance, start, made, number = random.Random(seed), an_hour_ago(), 0, 0
    server = SyncProcess(folder).start()
    while made < kills:
        number += 1
        device = f"meter-{number}"
        recorded = MemoryMeter({start + s: waveform(start + s, 2000) for s in range(60)})
        with server.store() as store:
            store.note_devices({device: start * 1_000_000})
            for second in chance.sample(sorted(recorded.seconds), 40):
                whole = sorted(recorded.seconds[second])
                kept = {us: recorded.seconds[second][us] for us in whole if chance.random() < 0.9}
                store.ingest([batch(device, second, kept | {whole[0]: "4711"})])
        meter = server.meter(device, recorded)
        meter.start()
        while not meter.rounds and made < kills:
            time.sleep(chance.uniform(0, 0.6))
            if not meter.rounds:
                made += 1
                if chance.random() < 0.6:
                    server.kill()
                    server.start()
                else:
                    meter.cut()
        wait_for(lambda m=meter: m.rounds, "the last round", 60)
        meter.stop()
        with server.store() as store:
            assert stored_samples(store, device, start, start + 60) == recorded.seconds, (seed, device)
            assert store.unproven_ranges(device, start, start + 60) == []
    for file in server.data.glob("*.sqlite"):
        assert by_hand(file, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    assert server.stop() == 0


def test_a_few_kills_in_mid_repair_end_equal(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, seed=1, kills=5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_hundreds_of_kills_in_mid_repair_end_equal(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, int(os.environ.get("EC_TEST_SEED", "20260301")), kills=300)
