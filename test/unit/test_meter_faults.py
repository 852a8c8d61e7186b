"""What a meter gets wrong on purpose: how often, what exactly, and the same each time."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reference_client.faults import FaultPlan, Faults, Message, damaged
from reference_client.local_store import LocalStore
from reference_client.message import bodies, text_batches
from reference_client.meter import Meter
from reference_client.waveform import Waveform
from utilities import checksum_util
from utilities.model import Digest

NOON = 1_772_366_400


def a_second(second: int = NOON, binary: bool = False) -> list[Message]:
    values = Waveform(1).second(second)
    return [
        Message(second * 1_000_000 + 1000 * i, body)
        for i, body in enumerate(bodies("meter-1", second, values, binary=binary))
    ]


def test_faults_are_read_from_one_line():
    plan = FaultPlan.parse("drop=5%, twice=0.01,damage=0.1%,silent=60-120,silent=200-210,forget=300,seed=7")
    assert plan == FaultPlan(
        0.05, 0.01, 0.0, 0.001, silent=((60.0, 120.0), (200.0, 210.0)), forget=(300.0,), seed=7
    )
    assert FaultPlan.parse("") == FaultPlan()


@pytest.mark.parametrize(
    "wrong", ["loss=1%", "drop=101%", "drop=x", "drop", "silent=5-2", "silent=5", "forget=-1", "drop=nan"]
)
def test_a_fault_that_cannot_be_read_is_named(wrong: str):
    with pytest.raises(ValueError, match=wrong.split("=", maxsplit=1)[0]):
        FaultPlan.parse(wrong)


def test_without_faults_every_message_leaves_as_it_is():
    faults = Faults(FaultPlan(), "meter-1")
    assert faults.apply(0, NOON, a_second(), False) == a_second()
    assert not faults.done.total()


def test_shares_of_messages_are_dropped_doubled_delayed_and_damaged():
    faults = Faults(FaultPlan(drop=0.05, twice=0.01, disorder=0.01, damage=0.01), "meter-1")
    before = [message for i in range(20) for message in a_second(NOON + i)]
    after = [message for i in range(20) for message in faults.apply(i, NOON + i, a_second(NOON + i), False)]
    done = faults.done
    assert len(after) == 20_000 - done["drop"] + done["twice"]
    assert 900 < done["drop"] < 1100
    assert all(130 < done[fault] < 270 for fault in ("twice", "disorder", "damage"))
    bodies_before, bodies_after = Counter(m.body for m in before), Counter(m.body for m in after)
    assert len(bodies_after - bodies_before) in range(done["damage"], done["damage"] + done["twice"] + 1)
    assert [m.due_us for m in after] == sorted(m.due_us for m in after) or done["disorder"]


def test_late_messages_leave_behind_those_that_follow_them():
    messages = Faults(FaultPlan(disorder=0.1), "meter-1").apply(0, NOON, a_second(), False)
    assert [m.due_us for m in messages] == sorted(m.due_us for m in messages)
    starts = [int(m.body.split(b"|")[2][:6]) for m in messages]
    assert starts != sorted(starts)
    assert sorted(starts) == list(range(0, 1_000_000, 1000))


def test_the_same_seed_gives_the_same_faults_and_devices_differ():
    def applied(seed: int, device: str) -> list[Message]:
        return Faults(FaultPlan(drop=0.5, seed=seed), device).apply(0, NOON, a_second(), False)

    assert applied(1, "a") == applied(1, "a")
    assert applied(1, "a") != applied(2, "a")
    assert applied(1, "a") != applied(1, "b")


def test_a_silent_span_is_half_open():
    faults = Faults(FaultPlan(silent=((10, 12),)), "meter-1")
    sent = [bool(faults.apply(elapsed, NOON + elapsed, a_second(), False)) for elapsed in range(9, 14)]
    assert sent == [True, False, False, True, True]
    assert faults.done["silent"] == 2000


@pytest.mark.parametrize("value", [1.5, -1.5, 0.0])
def test_damage_turns_the_sign_of_one_sample_and_nothing_else(value: float):
    samples = np.full(44, value, np.float32)
    (text,) = bodies("m", NOON, samples, binary=False)
    changed = damaged(text, random.Random(1), False)
    before, after = (body[:-2].split(b"|")[2].split(b";") for body in (text, changed))
    different = [(b, a) for b, a in zip(before, after) if a != b]
    assert len(before) == len(after) == 44
    assert len(different) == 1
    assert changed.endswith(b"||")
    assert float(different[0][0][7:]) == -float(different[0][1][7:])

    (packed,) = bodies("m", NOON, samples, binary=True)
    changed = damaged(packed, random.Random(1), True)
    fields = list(struct.iter_unpack("<if", b"".join(changed[13 + 9 * i :][:8] for i in range(44))))
    assert len(changed) == len(packed)
    assert sorted(abs(v) for _, v in fields) == [abs(value)] * 44
    assert sum(1 for a, b in zip(packed, changed) if a != b) == 1


def test_what_is_sent_was_recorded_before_whatever_goes_wrong_afterwards(tmp_path: Path):
    store = LocalStore(tmp_path, durable=False)
    faults = Faults(FaultPlan(drop=0.9, damage=0.5), "meter-1")
    meter = Meter("meter-1", Waveform(1), store, faults, binary=True)
    sent = meter.record(NOON, 0)
    text = ";".join(text_batches(Waveform(1).second(NOON)))
    counted = checksum_util.second_digest(text)
    assert counted
    assert store.digest(NOON) == Digest(*counted)
    assert store.text(NOON) == text
    assert len(sent) < 200
    store.close()


def test_a_store_that_is_lost_keeps_only_what_comes_afterwards(tmp_path: Path):
    store = LocalStore(tmp_path, durable=False)
    meter = Meter("m", Waveform(1), store, Faults(FaultPlan(forget=(2,)), "m"), binary=False)
    for elapsed in range(4):
        assert len(meter.record(NOON + elapsed, elapsed)) == 1000
    assert [second for second, _ in store.second_digests(NOON)] == [NOON + 2, NOON + 3]
    assert meter.faults.done["forget"] == 1
    store.close()


def test_a_second_that_the_disk_refuses_is_sent_all_the_same_and_counted(tmp_path: Path):
    class FullDisk(LocalStore):
        def record(self, second: int, text: str) -> Digest | None:
            raise OSError(28, "No space left on device")

    meter = Meter("m", Waveform(1), FullDisk(tmp_path), Faults(FaultPlan(), "m"), binary=False)
    assert len(meter.record(NOON, 0)) == 1000
    assert (meter.seconds_recorded, meter.seconds_refused) == (0, 1)
