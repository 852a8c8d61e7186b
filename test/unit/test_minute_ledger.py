"""The ledger's digests are those computed from scratch, or it says nothing."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from contract.store_suite import NOON, batch, expected_minute, expected_second, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.ingest.minute_ledger import MinuteLedger
from ec_server.storage.contract import FinishedMinute
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import Batch, Digest
from utilities.utc import ec_time, minute_of


def digests_of(finished: FinishedMinute) -> dict[int, Digest]:
    return dict(finished.seconds)


def followed(*batches: Batch) -> MinuteLedger:
    """A ledger that saw these batches from their minutes' beginning."""
    ledger = MinuteLedger()
    ledger.add(batches, {(b.device_id, minute_of(b.second)) for b in batches}, 0.0)
    return ledger


def test_batches_in_order_give_the_second_s_digest() -> None:
    batches = [run_of("m", NOON + 5, us, 44) for us in range(0, 1_000_000, 1000)]
    (finished,) = followed(*batches).end_all()
    samples = {us + 10 * i: "1.5" for us in range(0, 1_000_000, 1000) for i in range(44)}
    assert finished.complete
    assert digests_of(finished) == {NOON + 5: expected_second(samples)}


def test_swapped_neighbours_are_repaired() -> None:
    batches = [run_of("m", NOON, us) for us in range(0, 100_000, 1000)]
    order = sorted(range(100), key=lambda i: i + random.Random(7).randint(0, 5))
    (shuffled,) = followed(*[batches[i] for i in order]).end_all()
    (straight,) = followed(*batches).end_all()
    assert shuffled == straight
    assert shuffled.complete


def test_a_batch_far_too_late_silences_its_second_and_no_other() -> None:
    late = run_of("m", NOON, 0)
    batches = [run_of("m", NOON, us) for us in range(1000, 60_000, 1000)]
    (finished,) = followed(*batches, run_of("m", NOON + 1, 0), late).end_all()
    assert not finished.complete
    assert [second for second, _ in finished.seconds] == [NOON + 1]


@pytest.mark.parametrize("count", [2, 40])
def test_overlapping_batches_silence_their_second(count: int) -> None:
    batches = [run_of("m", NOON, us, 4) for us in range(0, count * 1000, 1000)]
    overlapping = batch("m", NOON, {(count - 1) * 1000 + 15: "2"})
    (finished,) = followed(*batches, overlapping).end_all()
    assert not finished.complete
    assert finished.seconds == ()


def test_a_minute_is_over_when_its_device_has_gone_on() -> None:
    ledger = followed(run_of("m", NOON + 59, 0))
    opened = {("m", NOON + 60)}
    assert ledger.add([run_of("m", NOON + 60, 0)], opened, 0.0) == []
    assert ledger.add([run_of("m", NOON + 59, 1000)], (), 0.0) == []
    (finished,) = ledger.add([run_of("m", NOON + 62, 0)], (), 0.0)
    assert (finished.minute, digests_of(finished)[NOON + 59].count) == (NOON, 8)


def test_a_minute_is_not_over_before_the_rest_of_the_same_group_is_added() -> None:
    ledger = followed(run_of("m", NOON + 58, 0))
    late = run_of("m", NOON + 59, 0)
    (finished,) = ledger.add([run_of("m", NOON + 62, 0), late], {("m", NOON + 60)}, 0.0)
    assert finished.complete
    assert [second for second, _ in finished.seconds] == [NOON + 58, NOON + 59]


def test_a_minute_that_begins_and_ends_within_one_group_is_published_with_all_its_samples() -> None:
    opened = {("m", NOON), ("m", NOON + 60)}
    group = [run_of("m", NOON + 62, 0), run_of("m", NOON + 59, 0), run_of("m", NOON + 59, 1000)]
    (finished,) = MinuteLedger().add(group, opened, 0.0)
    assert (finished.minute, finished.complete) == (NOON, True)
    assert digests_of(finished)[NOON + 59].count == 8


def test_a_minute_that_stays_silent_is_over() -> None:
    ledger = MinuteLedger(idle_s=15)
    ledger.add([run_of("m", NOON, 0)], {("m", NOON)}, now_s=100.0)
    assert ledger.idle(now_s=114.0) == []
    assert [f.minute for f in ledger.idle(now_s=115.0)] == [NOON]
    assert len(ledger) == 0


def test_a_minute_that_somebody_else_began_is_not_followed() -> None:
    ledger = MinuteLedger()
    ledger.add([run_of("m", NOON, 0)], (), 0.0)
    assert ledger.end_all() == []


def test_open_minutes_are_bounded_and_the_longest_silent_go_first() -> None:
    ledger = MinuteLedger(max_minutes=3)
    for n in range(5):
        ledger.add([run_of(f"m{n}", NOON, 0)], {(f"m{n}", NOON)}, 0.0)
    assert sorted(f.device_id for f in ledger.end_all()) == ["m2", "m3", "m4"]


def test_a_device_that_keeps_sending_is_not_given_up_for_invented_ones() -> None:
    ledger = MinuteLedger(max_minutes=3)
    ledger.add([run_of("meter", NOON, 0)], {("meter", NOON)}, 0.0)
    for n in range(20):
        ledger.add([run_of(f"invented{n}", NOON, 0)], {(f"invented{n}", NOON)}, 0.0)
        ledger.add([run_of("meter", NOON + 1 + n, 0)], (), 0.0)
    assert "meter" in {f.device_id for f in ledger.end_all()}


@pytest.mark.thorough
def test_memory_of_a_device_in_order_is_constant() -> None:
    ledger = MinuteLedger()

    def feed(minute: int) -> None:
        for second in range(minute, minute + 60):
            group = [run_of("m", second, us, 44) for us in range(0, 1_000_000, 25_000)]
            ledger.add(group, {("m", minute)} if second == minute else (), 0.0)

    feed(NOON)
    tracemalloc.start()
    try:
        feed(NOON + 60)
        first = tracemalloc.get_traced_memory()[0]
        for n in range(2, 7):
            feed(NOON + 60 * n)
        assert tracemalloc.get_traced_memory()[0] < first + 20_000
    finally:
        tracemalloc.stop()


# --- against any cutting, order, repetition and interleaving -----------------------------------

STEPS = (1, 7, 22, 23)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[dict[int, dict[int, str]], list[tuple[int, Batch]]]:
    """``({second: samples}, [(writer, batch), ...])``: the same samples, cut and sent anyhow."""
    seconds: dict[int, dict[int, str]] = {}
    sent: list[Batch] = []
    for second in draw(
        st.lists(
            st.sampled_from([NOON, NOON + 1, NOON + 5, NOON + 59, NOON + 61, NOON + 62]),
            min_size=1,
            max_size=4,
            unique=True,
        )
    ):
        us = draw(st.lists(st.integers(0, 400), min_size=1, max_size=60, unique=True))
        samples = {u: f"{u}.{second % 10}" for u in sorted(us)}
        seconds[second] = samples
        for _ in range(draw(st.integers(1, 2))):  # sent whole once or twice, cut differently
            keys, at = list(samples), 0
            while at < len(keys):
                size = draw(st.sampled_from(STEPS))
                sent.append(batch("m", second, {k: samples[k] for k in keys[at : at + size]}))
                at += size
    if draw(st.booleans()):
        sent = draw(st.permutations(sent))
    writers = draw(st.lists(st.integers(0, 2), min_size=len(sent), max_size=len(sent)))
    if draw(st.booleans()):
        writers = [0] * len(sent)
    return seconds, list(zip(writers, sent))


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(deliveries(), st.integers(1, 5), st.booleans())
def test_digests_equal_those_from_scratch_whatever_the_delivery(
    delivery: tuple[dict[int, dict[int, str]], list[tuple[int, Batch]]], group: int, ask_between: bool
) -> None:
    seconds, sent = delivery
    with TemporaryDirectory() as folder:
        stores = [SqliteStore(Path(folder)) for _ in range(3)]
        ledgers = [MinuteLedger() for _ in range(3)]
        try:
            for at in range(0, len(sent), group):
                part = sent[at : at + group]
                for n, (store, ledger) in enumerate(zip(stores, ledgers)):
                    mine = [b for w, b in part if w == n]
                    result = store.ingest(mine)
                    changed = [b for b, c in zip(mine, result.changed) if c]
                    store.publish(ledger.add(changed, result.opened, 0.0))
                if ask_between:
                    stores[at % 3].minute_digests("m", NOON, NOON + 120)
            for store, ledger in zip(stores, ledgers):
                store.publish(ledger.end_all())
            want = {s: expected_second(samples) for s, samples in seconds.items()}
            for minute in (NOON, NOON + 60):
                of_minute = {s: d for s, d in want.items() if minute_of(s) == minute}
                assert dict(stores[0].second_digests("m", minute)) == of_minute
                whole = expected_minute({ec_time(s): d for s, d in of_minute.items()})
                found = dict(stores[1].minute_digests("m", minute, minute + 60))
                assert found == ({minute: whole} if of_minute else {})
            rows = dict(stores[2].minute_digests("m", NOON, NOON + 120, from_rows=True))
            assert rows == dict(stores[0].minute_digests("m", NOON, NOON + 120))
        finally:
            for store in stores:
                store.close()


def test_a_lone_writer_s_minutes_are_published_and_nothing_is_left_to_compute(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        ledger = MinuteLedger()
        for second in range(NOON, NOON + 63):
            group = [run_of("m", second, us, 44) for us in range(0, 1_000_000, 50_000)]
            result = store.ingest(group)
            store.publish(ledger.add(group, result.opened, 0.0))
        assert store.minutes_without_digest(NOON + 61) == []


def test_the_independent_expectation_agrees_with_the_plain_engine() -> None:
    store = MemoryStore()
    store.ingest([run_of("m", NOON, 0, 2)])
    text = "000000,1.5;000010,1.5"
    assert store.second_digests("m", NOON) == [(NOON, Digest(2, hashlib.md5(text.encode()).hexdigest()))]
