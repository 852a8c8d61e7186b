"""A month of one meter in short days, with packing, loss, late messages and rounds: the disk stays flat."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from contract.store_suite import MIDNIGHT
from packed_rows import regular_clock, signal
from sync_meter import Connection, MemoryMeter, text_of

from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.coverage import RoundRules
from utilities.model import Batch, MinuteState
from utilities.utc import DAY_S, MINUTE_S, ec_date, iso, second_text

ROOT = Path(__file__).resolve().parents[2]
DAYS, MINUTES_A_DAY, SECONDS_A_MINUTE, SAMPLES, A_ROW = 30, 12, 6, 440, 44
GRACE_S = 10
RULES = RoundRules(grace_s=GRACE_S, back_days=400, retention_days=0)
DEVICE = "meter-7"


def minutes_of(day: int) -> range:
    return range(day, day + MINUTES_A_DAY * MINUTE_S, MINUTE_S)


def seconds_of(minute: int) -> range:
    return range(minute, minute + SECONDS_A_MINUTE)


def recorded(second: int) -> dict[int, str]:
    return {at: f"{value:.3f}" for at, value in zip(regular_clock(SAMPLES), signal(SAMPLES, second))}


def messages(meter: MemoryMeter, second: int) -> list[Batch]:
    """What the meter sends of a second."""
    samples = text_of(meter.seconds[second]).split(";")
    return [batch_of(DEVICE, second, ";".join(samples[i : i + A_ROW])) for i in range(0, SAMPLES, A_ROW)]


def pack_all(store: SqliteStore, before: int) -> None:
    while minutes := store.unpacked_minutes(before, 100):
        for device_id, minute in minutes:
            store.pack_minute(device_id, minute)
    while store.return_space(before):
        pass


class Month:
    """The meter, the server's store, and what happens between them. ``now_s`` is everybody's clock."""

    def __init__(self, store: SqliteStore, seed: int) -> None:
        self.store, self.choose = store, random.Random(seed)
        self.meter = MemoryMeter()
        self.late: list[Batch] = []
        self.connection: Connection | None = None
        self.repaired = 0

    def chance(self, share: float) -> bool:
        return self.choose.random() < share

    def minute(self, minute: int) -> None:
        """Record and send a minute; some of it is lost, some of it comes later, some of it twice."""
        for second in seconds_of(minute):
            self.meter.seconds[second] = recorded(second)
            sent = messages(self.meter, second)
            arrived = [batch for batch in sent if not self.chance(0.02)]
            self.late += [batch for batch in sent if batch not in arrived and self.chance(0.5)]
            self.store.ingest(arrived)
            if self.chance(0.05):
                self.store.ingest(arrived[:3])
        if self.late and self.chance(0.3):
            self.store.ingest(self.late[:5])
            self.late = self.late[5:]

    def round(self, now_s: int) -> None:
        """What the server does every few minutes, mostly over the connection that is there."""
        if self.connection is None or self.chance(0.1):
            self.connection = Connection(self.store, self.meter, RULES)
        verified, _ = self.connection.round(now_s)
        self.repaired += verified.repaired
        assert verified.unresolved == 0

    def day(self, day: int) -> None:
        """One day: packing before, between and after rounds."""
        for minute in minutes_of(day):
            self.minute(minute)
            if self.chance(0.5):
                pack_all(self.store, minute + self.choose.choice((0, MINUTE_S)))
            if self.chance(0.3):
                self.round(minute + MINUTE_S + GRACE_S)
        self.late.clear()
        self.round(day + DAY_S)
        pack_all(self.store, day + 2 * DAY_S)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_month_of_packing_loss_and_rounds_loses_nothing_and_keeps_the_disk_flat(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    days = [MIDNIGHT + i * DAY_S for i in range(DAYS)]
    sizes, blocks = [0], [0]
    with SqliteStore(folder) as store:
        store.note_devices({DEVICE: MIDNIGHT * 1_000_000})
        month = Month(store, 30)
        for day in days:
            month.day(day)
            sizes.append(sum(path.stat().st_size for path in folder.glob("ec-*.sqlite*")))
            blocks.append(store.stored_bytes().blocks)
            assert store.count_unpacked(day + 2 * DAY_S) == 0
        assert month.repaired > DAYS
        assert store.unproven_ranges(DEVICE, MIDNIGHT, MIDNIGHT + DAYS * DAY_S - MINUTE_S) == []
        for day in days:
            span = store.minutes(DEVICE, day, day + MINUTES_A_DAY * MINUTE_S)
            assert [(one.minute, one.state, one.packed) for one in span] == [
                (minute, MinuteState.PROVEN, True) for minute in minutes_of(day)
            ]
    samples = DAYS * MINUTES_A_DAY * SECONDS_A_MINUTE * SAMPLES
    assert blocks[-1] < 4 * samples
    beside = [after - before for before, after in zip(blocks, sizes, strict=True)]
    growth = [after - before for before, after in zip(beside[1:], beside[2:])]
    assert max(growth) < min(growth) + 40_000  # the same tables and digests each day, no rows
    exported_is_the_recording(folder, month.meter)
    tool_shows_all_proven(folder, month.meter, days)


def run(folder: Path, *command: str) -> Iterator[bytes]:
    """The lines that a command of the server prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EC_STORAGE_PATH": str(folder)}
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, cwd=folder.parent, env=environment
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    assert process.returncode == 0


def exported_is_the_recording(folder: Path, meter: MemoryMeter) -> None:
    first, last = min(meter.seconds), max(meter.seconds) + 1
    command = ("-m", "ec_server.export", DEVICE, "--from", second_text(first), "--to", second_text(last))
    lines = run(folder, *command)
    assert next(lines).decode().rstrip() == "time,value"
    for found, wanted in zip_longest(lines, expected_lines(meter)):
        assert found is not None
        assert found.decode().rstrip() == wanted


def expected_lines(meter: MemoryMeter) -> Iterator[str]:
    for second in sorted(meter.seconds):
        for us, value in meter.seconds[second].items():
            yield f"{iso(second * 1_000_000 + us)[:26]}Z,{value}"


def tool_shows_all_proven(folder: Path, meter: MemoryMeter, days: list[int]) -> None:
    for day in days:
        moment = f"{ec_date(day)}000100"
        command = (str(ROOT / "test" / "test.py"), "-i", DEVICE, "-d", moment, "--json")
        document = json.loads(b"".join(run(folder, *command)))
        minutes = [one for one in document["minutes"] if one["samples"]]
        assert [one["state"] for one in minutes] == ["proven"] * MINUTES_A_DAY
        assert {one["samples"] for one in minutes} == {SECONDS_A_MINUTE * SAMPLES}
        digests = [one["values_checksum"] for one in document["seconds"][:SECONDS_A_MINUTE]]
        texts = [text_of(meter.seconds[second]) for second in seconds_of(day + MINUTE_S)]
        assert digests == [hashlib.md5(text.encode()).hexdigest() for text in texts]
