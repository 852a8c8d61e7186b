"""A round between random sets of samples on both sides, and each kind of minute one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sync_meter import (
    NOON,
    MemoryMeter,
    Samples_,
    batch,
    run_round,
    stored_samples,
    text_of,
    waveform,
)

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_day_rows import DayRows
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.frames import AskMinutes, AskSamples, AskSeconds
from ec_server.synchronization.minute_repair import MinuteReport
from ec_server.synchronization.round_state import RoundTask
from ec_server.synchronization.steps import Collect, Use
from utilities.model import MinuteState
from utilities.utc import DAY_S

DEVICE, OTHER = "meter-7", "meter-8"
HOUR = RoundTask(DEVICE, NOON, NOON + 3600)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SqliteStore(tmp_path) as opened:
        opened.note_devices({DEVICE: NOON * 1_000_000})
        yield opened


def put(store: Store, device_id: str, second: int, samples: Samples_, per_batch: int = 44) -> None:
    ordered = sorted(samples)
    for at in range(0, len(ordered), per_batch):
        store.ingest([batch(device_id, second, {us: samples[us] for us in ordered[at : at + per_batch]})])


def kinds(requests: list[object]) -> list[type]:
    return [type(r) for r in requests]


# --- any samples on both sides ----------------------------------------------------------------

VALUES = st.sampled_from(["1", "1.0", "-2.5", "3e2"])
SECONDS = st.sampled_from([NOON, NOON + 1, NOON + 59, NOON + 60, NOON + 3599])
SAMPLES = st.dictionaries(st.integers(0, 60) | st.integers(999_990, 999_999), VALUES, min_size=1)
STORED = st.lists(st.tuples(SECONDS, SAMPLES), max_size=8)


class TestAnySamplesOnBothSides:
    @pytest.mark.thorough
    @settings(deadline=None, max_examples=150)
    @given(
        stored=STORED,
        recorded=st.dictionaries(SECONDS, SAMPLES),
        elsewhere=STORED,
        in_common=st.booleans(),
        lost=st.randoms(use_true_random=False),
    )
    def test_after_a_round_the_device_s_samples_are_stored_and_none_is_gone(
        self,
        stored: list[tuple[int, Samples_]],
        recorded: dict[int, Samples_],
        elsewhere: list[tuple[int, Samples_]],
        in_common: bool,
        lost: random.Random,
    ) -> None:
        with MemoryStore() as store:
            self.check(store, stored, recorded, elsewhere, lost if in_common else None)

    @pytest.mark.soak
    @pytest.mark.timeout(900)
    @settings(deadline=None, max_examples=3000)
    @given(stored=STORED, recorded=st.dictionaries(SECONDS, SAMPLES), lost=st.randoms(use_true_random=False))
    def test_the_same_with_thousands_of_cases(
        self, stored: list[tuple[int, Samples_]], recorded: dict[int, Samples_], lost: random.Random
    ) -> None:
        with MemoryStore() as store:
            self.check(store, stored, recorded, stored, lost)

    @settings(deadline=None, max_examples=20)
    @given(stored=STORED, recorded=st.dictionaries(SECONDS, SAMPLES), lost=st.randoms(use_true_random=False))
    def test_the_same_with_real_files(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        stored: list[tuple[int, Samples_]],
        recorded: dict[int, Samples_],
        lost: random.Random,
    ) -> None:
        with SqliteStore(tmp_path_factory.mktemp("any")) as store:
            self.check(store, stored, recorded, [], lost)

    @staticmethod
    def check(
        store: Store,
        stored: list[tuple[int, Samples_]],
        recorded: dict[int, Samples_],
        elsewhere: list[tuple[int, Samples_]],
        lost: random.Random | None,
    ) -> None:
        store.note_devices({DEVICE: NOON * 1_000_000})
        for second, samples in stored:
            store.ingest([batch(DEVICE, second, samples)])
        for second, samples in elsewhere:
            store.ingest([batch(OTHER, second, samples)])
        if lost is not None:
            for second, samples in recorded.items():
                kept = {us: v for us, v in samples.items() if lost.random() < 0.7}
                if kept:
                    store.ingest([batch(DEVICE, second, kept)])
        before = stored_samples(store, DEVICE, NOON, NOON + 3600)
        others = list(store.rows(OTHER, NOON, NOON + 3600))

        result, _ = run_round(store, MemoryMeter(recorded), HOUR)

        after = stored_samples(store, DEVICE, NOON, NOON + 3600)
        for second, samples in recorded.items():
            assert samples.items() <= after[second].items()
        for second, samples in before.items():
            assert samples.keys() <= after[second].keys()
            assert after[second].keys() <= samples.keys() | recorded.get(second, {}).keys()
        assert list(store.rows(OTHER, NOON, NOON + 3600)) == others
        assert result.verified.unresolved == 0
        assert result.verified.through == NOON + 3600
        assert result.verified.compared == 60
        extra = sum(len(samples.keys() - recorded.get(s, {}).keys()) for s, samples in after.items())
        assert result.verified.extra == extra

        again, crossed = run_round(store, MemoryMeter(recorded), replace(HOUR, heard=result.heard))
        assert crossed.requests == []
        assert again.verified == replace(again.verified, through=NOON + 3600, compared=0, repaired=0, extra=0)


# --- each kind of minute ----------------------------------------------------------------------


class TestAMinute:
    def test_that_is_equal_costs_one_line_and_is_proven(self, store: Store) -> None:
        meter = MemoryMeter({NOON + s: waveform(NOON + s, 100) for s in range(60)})
        for second, samples in meter.seconds.items():
            put(store, DEVICE, second, samples)
        result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 60))
        assert crossed.requests == [AskMinutes(1, NOON, NOON + 60)]
        assert store.minutes(DEVICE, NOON, NOON + 60)[0].state is MinuteState.PROVEN
        assert (result.verified.compared, result.verified.repaired) == (1, 0)

    def test_of_which_the_device_has_nothing_is_unconfirmable_once_and_not_asked_for_again(
        self, store: Store
    ) -> None:
        put(store, DEVICE, NOON, waveform(NOON, 10))
        result, _ = run_round(store, MemoryMeter(), HOUR)
        assert result.verified.through == HOUR.stop
        record = store.minutes(DEVICE, NOON, NOON + 60)[0]
        assert (record.state, record.extra, result.verified.extra) == (MinuteState.UNCONFIRMABLE, 10, 10)
        _, crossed = run_round(store, MemoryMeter(), replace(HOUR, heard=result.heard))
        assert crossed.requests == []

    def test_that_is_written_to_after_it_was_proven_is_compared_again(self, store: Store) -> None:
        meter = MemoryMeter({NOON: waveform(NOON, 10)})
        run_round(store, meter, HOUR)
        put(store, DEVICE, NOON, {999_999: "7"})
        result, crossed = run_round(store, meter, HOUR)
        assert crossed.requests[0] == AskMinutes(1, NOON, NOON + 60)
        assert (result.verified.compared, result.verified.extra) == (1, 1)

    def test_from_through_on_is_left_for_a_later_round(self, store: Store) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 10) for m in range(10)})
        meter.unfinished = NOON + 180
        result, _ = run_round(store, meter, replace(HOUR, stop=NOON + 600))
        assert (result.verified.through, result.verified.compared) == (NOON + 180, 3)
        assert list(stored_samples(store, DEVICE, NOON, NOON + 600)) == [NOON, NOON + 60, NOON + 120]
        meter.unfinished = None
        result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 600))
        assert crossed.requests[0] == AskMinutes(1, NOON + 180, NOON + 600)
        assert (result.verified.through, result.verified.compared) == (NOON + 600, 7)

    def test_that_the_device_lacks_samples_of_is_proven_and_the_number_is_on_record(
        self, store: Store
    ) -> None:
        whole = waveform(NOON, 100)
        put(store, DEVICE, NOON, whole)
        put(store, DEVICE, NOON + 1, whole)
        meter = MemoryMeter({NOON: {us: whole[us] for us in sorted(whole)[:90]}})
        result, _ = run_round(store, meter, HOUR)
        record = store.minutes(DEVICE, NOON, NOON + 60)[0]
        assert (record.state, record.extra, result.verified.extra) == (MinuteState.PROVEN, 110, 110)
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == {NOON: whole, NOON + 1: whole}

    def test_whose_values_differ_takes_the_device_s_and_counts_the_conflicts(self, store: Store) -> None:
        right = waveform(NOON, 100)
        put(store, DEVICE, NOON, right | {0: "9999", 10_000: "8888"})
        result, crossed = run_round(store, MemoryMeter({NOON: right}), HOUR)
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == {NOON: right}
        assert crossed.figures["value_conflicts"] == 2
        assert "2 stored values differed" in crossed.log[0]
        assert store.minutes(DEVICE, NOON, NOON + 60)[0].conflicts == 2
        assert result.verified.repaired == 1
        assert crossed.figures["samples_repaired"] == 2

    def test_with_a_right_row_overridden_by_a_wrong_one_is_repaired_too(self, store: Store) -> None:
        store.ingest([batch(DEVICE, NOON, {500: "1.0"})])
        store.ingest([batch(DEVICE, NOON, {0: "1", 500: "9", 700: "3"})])
        store.ingest([batch(DEVICE, NOON, {700: "4"})])
        right = {0: "1", 500: "1.0", 700: "4"}
        result, _ = run_round(store, MemoryMeter({NOON: right}), HOUR)
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == {NOON: right}
        assert (result.verified.repaired, result.verified.unresolved) == (1, 0)

    def test_long_ranges_are_asked_for_in_pieces_of_an_hour_oldest_first(self, store: Store) -> None:
        _, crossed = run_round(store, MemoryMeter(), replace(HOUR, stop=NOON + 9000))
        spans = [(r.start, r.stop) for r in crossed.requests if isinstance(r, AskMinutes)]
        assert spans == [(NOON, NOON + 3600), (NOON + 3600, NOON + 7200), (NOON + 7200, NOON + 9000)]

    def test_across_midnight_is_repaired_like_any_other(self, store: Store) -> None:
        midnight = NOON + DAY_S // 2
        meter = MemoryMeter({s: waveform(s, 50) for s in range(midnight - 90, midnight + 90)})
        result, _ = run_round(store, meter, RoundTask(DEVICE, midnight - 120, midnight + 120))
        assert stored_samples(store, DEVICE, midnight - 120, midnight + 120) == meter.seconds
        assert (result.verified.repaired, result.verified.unresolved) == (180, 0)


# --- what crosses the wire --------------------------------------------------------------------


def messages(second: int, rate: int = 44_000, per_message: int = 44) -> list[Samples_]:
    samples = waveform(second, rate)
    ordered = sorted(samples)
    return [{us: samples[us] for us in ordered[at : at + per_message]} for at in range(0, rate, per_message)]


class TestWhatCrossesTheWire:
    @pytest.mark.thorough
    @pytest.mark.parametrize("share", [0.05, 0.001])
    @pytest.mark.parametrize("seed", range(3))
    def test_messages_lost_at_random_cost_no_more_samples_than_were_lost(
        self, share: float, seed: int
    ) -> None:
        chance, store, lost = random.Random(seed), MemoryStore(), 0
        store.note_devices({DEVICE: NOON * 1_000_000})
        meter = MemoryMeter({NOON + s: waveform(NOON + s, 44_000) for s in range(3)})
        for second in meter.seconds:
            arrived = []
            for number, message in enumerate(messages(second)):
                at_border = seed == 0 and number in (0, 999)
                if at_border or chance.random() < share:
                    lost += len(message)
                else:
                    arrived.append(batch(DEVICE, second, message))
            store.ingest(arrived)
        result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 60))
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == meter.seconds
        assert result.verified.unresolved == 0
        assert crossed.samples == lost
        assert all(r.ranges for r in crossed.requests if isinstance(r, AskSamples))

    def test_whole_seconds_cross_only_where_values_were_altered(self) -> None:
        store = MemoryStore()
        store.note_devices({DEVICE: NOON * 1_000_000})
        meter = MemoryMeter({NOON + s: waveform(NOON + s, 4400) for s in range(4)})
        for second in meter.seconds:
            for number, message in enumerate(messages(second, 4400)):
                if number % 20 != 3:
                    altered = dict.fromkeys(message, "0") if second == NOON + 2 and number == 5 else message
                    store.ingest([batch(DEVICE, second, altered)])
        _, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 60))
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == meter.seconds
        missing = 5 * 44
        assert crossed.samples == 4 * missing + 4400

    def test_more_gaps_than_one_request_can_name_are_asked_for_in_several(self) -> None:
        store = MemoryStore()
        store.note_devices({DEVICE: NOON * 1_000_000})
        every = waveform(NOON, 44_000)
        arrived = {us: v for i, (us, v) in enumerate(sorted(every.items())) if i % 10}
        store.ingest([batch(DEVICE, NOON, arrived)])
        _, crossed = run_round(store, MemoryMeter({NOON: every}), replace(HOUR, stop=NOON + 60))
        assert crossed.samples == 4400
        asked = [len(r.ranges or ()) for r in crossed.requests if isinstance(r, AskSamples)]
        assert asked == [1000] * 4 + [401]

    def test_a_clean_half_hour_crosses_in_under_four_kilobytes(self) -> None:
        store = MemoryStore()
        store.note_devices({DEVICE: NOON * 1_000_000})
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 1000) for m in range(30)})
        for second, samples in meter.seconds.items():
            put(store, DEVICE, second, samples, 300)
        result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 1800))
        assert result.verified.compared == 30
        assert crossed.bytes < 4000

    def test_a_clean_minute_with_kept_digests_reads_no_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meter = MemoryMeter({NOON + s: waveform(NOON + s, 100) for s in range(300)})
        with SqliteStore(tmp_path) as store:
            store.note_devices({DEVICE: NOON * 1_000_000})
            for second, samples in meter.seconds.items():
                store.ingest([batch(DEVICE, second, samples)])
            for device_id, minute in store.minutes_without_digest(NOON + 300):
                store.minute_digests(device_id, minute, minute + 60)

            def read(*_: object, **__: object) -> None:
                raise AssertionError("a data row was read")

            monkeypatch.setattr(DayRows, "all", read)
            monkeypatch.setattr(DayRows, "texts", read)
            result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 300))
        assert (result.verified.compared, result.verified.through) == (5, NOON + 300)
        assert len(crossed.requests) == 1


# --- ingest in the same moment ----------------------------------------------------------------


class TestIngestInTheSameMoment:
    def test_nothing_of_it_is_lost_and_no_repair_is_undone(self, store: Store) -> None:
        meter = MemoryMeter({NOON + s: waveform(NOON + s, 1000) for s in range(20)})
        late = [batch(DEVICE, s, m) for s in meter.seconds for m in messages(s, 1000, 100)]
        random.Random(1).shuffle(late)

        def meanwhile(command: object) -> None:
            if isinstance(command, Use) and late:
                store.ingest([late.pop() for _ in range(3) if late])

        for _ in range(40):
            result, _ = run_round(store, meter, replace(HOUR, stop=NOON + 60), meanwhile=meanwhile)
            if not late and not result.verified.unresolved:
                break
        assert not late
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == meter.seconds
        result, _ = run_round(store, meter, replace(HOUR, stop=NOON + 60))
        assert (result.verified.through, result.verified.unresolved) == (NOON + 60, 0)

    def test_a_minute_that_is_written_to_before_its_verdict_is_not_called_proven(self, store: Store) -> None:
        meter = MemoryMeter({NOON: waveform(NOON, 100)})
        put(store, DEVICE, NOON, meter.seconds[NOON])
        commands: list[object] = []

        def meanwhile(command: object) -> None:
            if isinstance(command, Use) and any(isinstance(c, Collect) for c in commands):
                put(store, DEVICE, NOON + 1, {5: "1"})  # between the answer and the verdict
                commands.clear()
            commands.append(command)

        result, _ = run_round(store, meter, replace(HOUR, stop=NOON + 60), meanwhile=meanwhile)
        assert (result.verified.through, result.verified.unresolved) == (NOON, 1)

    def test_a_late_replay_of_the_old_message_does_not_undo_a_repair(self, store: Store) -> None:
        right = waveform(NOON, 88)
        wrong = dict.fromkeys(sorted(right)[:44], "0")
        put(store, DEVICE, NOON, right | wrong)
        run_round(store, MemoryMeter({NOON: right}), HOUR)
        assert stored_samples(store, DEVICE, NOON, NOON + 60) == {NOON: right}


# --- an audit ---------------------------------------------------------------------------------


class TestAnAudit:
    def test_compares_proven_minutes_again_and_reports_each(self, store: Store) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 100) for m in range(3)})
        run_round(store, meter, replace(HOUR, stop=NOON + 240))
        put(store, DEVICE, NOON + 60, {0: "77"})
        result, crossed = run_round(store, meter, replace(HOUR, stop=NOON + 240, audit=True))
        assert [(r.minute, r.state, r.repaired, r.conflicts) for r in result.reports] == [
            (NOON, MinuteState.PROVEN, 0, 0),
            (NOON + 60, MinuteState.PROVEN, 1, 1),
            (NOON + 120, MinuteState.PROVEN, 0, 0),
            (NOON + 180, MinuteState.EMPTY, 0, 0),
        ]
        assert isinstance(result.reports[0], MinuteReport)
        assert kinds(crossed.requests) == [AskMinutes, AskSeconds, AskSamples]


def test_texts_of_the_tools_are_canonical() -> None:
    assert text_of({5: "1", 0: "2"}) == "000000,2;000005,1"
