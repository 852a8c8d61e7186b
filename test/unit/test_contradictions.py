"""A device that contradicts itself, a database that cannot read: each costs its own minute or day only."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from sync_meter import NOON, MemoryMeter, Samples_, batch, run_round, stored_samples, text_of, waveform

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.frames import Answer, AskSamples, Minutes, Samples, Seconds
from ec_server.synchronization.round_state import RoundTask
from utilities.checksum_util import parse_canonical
from utilities.errors import PermanentStorageError
from utilities.model import Digest, MinuteState
from utilities.utc import DAY_S

DEVICE = "meter-7"
MINUTES = RoundTask(DEVICE, NOON, NOON + 300)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SqliteStore(tmp_path) as opened:
        opened.note_devices({DEVICE: NOON * 1_000_000})
        yield opened


def samples_of(answer: Samples, samples: Samples_) -> Samples:
    """An answer of other samples, true to itself."""
    digest, payload = MemoryMeter({answer.second: samples}).packed(answer.second) or (None, b"")
    assert digest is not None
    return replace(
        answer, count=digest.count, md5=digest.md5, packed=True, length=len(payload), payload=payload
    )


def packed_answer(answer: Samples, text: str) -> Samples:
    payload = zlib.compress(text.encode())
    md5 = hashlib.md5(text.encode()).hexdigest()
    count = text.count(";") + 1
    return replace(answer, count=count, md5=md5, packed=True, length=len(payload), payload=payload)


Distortion = Callable[[Answer], Answer]
LIES: Mapping[str, Callable[[Samples], Samples]] = {
    "other samples": lambda a: samples_of(a, {1: "1"}),
    "count 0": lambda a: Samples(a.id, a.second, 0, "", False, 0),
    "another md5": lambda a: replace(a, md5="0" * 32),
    "another count": lambda a: replace(a, count=a.count + 1),
    "not packed at all": lambda a: replace(a, payload=b"x" * a.length),
    "packed and cut": lambda a: replace(a, payload=a.payload[:-5], length=a.length - 5),
    "a microsecond twice": lambda a: packed_answer(a, "000000,1;000000,2"),
    "not ascending": lambda a: packed_answer(a, "000001,1;000000,2"),
    "not a number": lambda a: packed_answer(a, "000000,nan"),
    "not canonical": lambda a: packed_answer(a, "0,1"),
    "no text": lambda a: packed_answer(a, "x" * 9),
}


def about(second: int, lie: Callable[[Samples], Samples]) -> Distortion:
    return lambda a: lie(a) if isinstance(a, Samples) and a.second == second else a


class TestOneBadSecond:
    @pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
    def test_leaves_its_minute_unresolved_and_everything_else_is_repaired(
        self, store: Store, lie: Callable[[Samples], Samples]
    ) -> None:
        meter = MemoryMeter({NOON + 60 * m + s: waveform(NOON + s, 50) for m in range(5) for s in range(3)})
        store.ingest([batch(DEVICE, NOON + 61, {7: "1"})])
        result, crossed = run_round(store, meter, MINUTES, distort=about(NOON + 61, lie))
        verified = result.verified
        assert (verified.through, verified.compared, verified.unresolved) == (NOON + 60, 5, 1)
        assert verified.repaired == 14
        assert crossed.figures["contradictions"] == 1
        stored = stored_samples(store, DEVICE, NOON, NOON + 300)
        assert stored.pop(NOON + 61) == {7: "1"}, "something of a contradiction was stored"
        assert stored == {s: v for s, v in meter.seconds.items() if s != NOON + 61}
        states = {record.minute: record.state for record in store.minutes(DEVICE, NOON, NOON + 300)}
        assert states.pop(NOON + 60) is MinuteState.UNRESOLVED
        assert set(states.values()) == {MinuteState.PROVEN}

    def test_is_asked_for_again_in_the_next_round_and_proven_once_it_fits(self, store: Store) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 50) for m in range(5)})
        result, _ = run_round(store, meter, MINUTES, distort=about(NOON + 60, LIES["count 0"]))
        result, _ = run_round(store, meter, replace(MINUTES, heard=result.heard))
        verified = result.verified
        assert (verified.through, verified.compared, verified.unresolved) == (NOON + 300, 1, 0)
        assert stored_samples(store, DEVICE, NOON, NOON + 300) == meter.seconds

    def test_does_not_end_an_audit_which_names_what_did_not_fit(self, store: Store) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 50) for m in range(5)})
        result, _ = run_round(
            store, meter, replace(MINUTES, audit=True), distort=about(NOON + 60, LIES["count 0"])
        )
        states = [report.state for report in result.reports]
        assert states == [MinuteState.PROVEN, MinuteState.UNRESOLVED, *[MinuteState.PROVEN] * 3]
        fault = result.reports[1].fault
        assert fault is not None
        assert (fault.code, "20260301120100" in fault.text) == ("digest_mismatch", True)


class TestSecondsThatDoNotMakeUpTheirMinute:
    def test_cost_that_minute_only(self, store: Store) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 50) for m in range(5)})
        store.ingest([batch(DEVICE, NOON + 60, {7: "1"})])

        def distort(answer: Answer) -> Answer:
            if isinstance(answer, Seconds) and answer.digests and answer.digests[0][0] == NOON + 60:
                return replace(answer, digests=((NOON + 60, Digest(50, "0" * 32)),))
            return answer

        result, crossed = run_round(store, meter, MINUTES, distort=distort)
        assert (result.verified.through, result.verified.unresolved) == (NOON + 60, 1)
        assert result.verified.repaired == 4
        assert stored_samples(store, DEVICE, NOON + 60, NOON + 120) == {NOON + 60: {7: "1"}}
        assert "digest_mismatch" in crossed.log[0]

    def test_a_device_that_lies_about_every_minute_ends_every_round_unproven_and_connected(
        self, store: Store
    ) -> None:
        meter = MemoryMeter({NOON + 60 * m: waveform(NOON, 50) for m in range(5)})

        def distort(answer: Answer) -> Answer:
            if isinstance(answer, Minutes):
                return replace(answer, digests=tuple((m, Digest(9, "0" * 32)) for m, _ in answer.digests))
            return answer

        result, _ = run_round(store, meter, MINUTES, distort=distort)
        assert (result.verified.through, result.verified.unresolved) == (NOON, 5)
        assert stored_samples(store, DEVICE, NOON, NOON + 300) == {}


class TestAnAnswerToRanges:
    EVERY = waveform(NOON, 1000)

    @pytest.fixture
    def gaps(self, store: Store) -> Store:
        store.ingest([batch(DEVICE, NOON, {us: v for us, v in self.EVERY.items() if us > 50_000})])
        return store

    def ranged_only(self, lie: Callable[[Samples], Samples]) -> Distortion:
        """Lies only to the first question, which is the one about ranges."""
        told: list[Samples] = []

        def distort(answer: Answer) -> Answer:
            if isinstance(answer, Samples) and not told:
                told.append(answer)
                return lie(answer)
            return answer

        return distort

    def test_may_be_the_whole_second(self, gaps: Store) -> None:
        meter = MemoryMeter({NOON: self.EVERY})
        distort = self.ranged_only(lambda a: samples_of(a, self.EVERY))
        result, crossed = run_round(gaps, meter, MINUTES, distort=distort)
        assert (result.verified.unresolved, result.verified.repaired) == (0, 1)
        assert sum(isinstance(r, AskSamples) for r in crossed.requests) == 1
        assert stored_samples(gaps, DEVICE, NOON, NOON + 60) == meter.seconds

    @pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
    def test_that_is_wrong_in_any_way_leads_to_the_whole_second(
        self, gaps: Store, lie: Callable[[Samples], Samples]
    ) -> None:
        meter = MemoryMeter({NOON: self.EVERY})
        result, crossed = run_round(gaps, meter, MINUTES, distort=self.ranged_only(lie))
        assert (result.verified.unresolved, result.verified.repaired) == (0, 1)
        asked = [r.ranges is None for r in crossed.requests if isinstance(r, AskSamples)]
        assert asked == [False, True]
        assert stored_samples(gaps, DEVICE, NOON, NOON + 60) == meter.seconds


class TestASecondThatIsTooLong:
    def test_is_not_fetched_and_costs_its_minute_only(self, store: Store) -> None:
        meter = MemoryMeter({NOON: waveform(NOON, 101), NOON + 60: waveform(NOON, 100)})
        result, crossed = run_round(store, meter, replace(MINUTES, most_samples=100))
        assert (result.verified.through, result.verified.unresolved) == (NOON, 1)
        assert crossed.samples == 100
        assert "sync.max_second_samples is 100" in crossed.log[0]

    def test_is_not_created_by_a_repair_either(self, store: Store) -> None:
        store.ingest([batch(DEVICE, NOON, dict.fromkeys(range(60), "5"))])
        meter = MemoryMeter({NOON: dict.fromkeys(range(500, 560), "5")})
        result, _ = run_round(store, meter, replace(MINUTES, most_samples=100))
        assert result.verified.unresolved == 1
        assert len(stored_samples(store, DEVICE, NOON, NOON + 60)[NOON]) == 60


# --- what the database cannot read ---------------------------------------------------------------


class DamagedStore:
    """A store that cannot read some minutes in some of its calls."""

    def __init__(self, call: str, *minutes: int) -> None:
        self._store = MemoryStore()
        self.call, self.damaged = call, minutes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._guarded, found) if name == self.call else found

    def _guarded(self, call: Callable[..., Any], device_id: str, what: Any, *more: Any, **keys: Any) -> Any:
        if isinstance(what, list):
            hit = any(verdict.minute in self.damaged for verdict in what)
        else:
            stop = more[0] if more else what + 60
            hit = any(what // 60 * 60 <= minute < stop for minute in self.damaged)
        if hit:
            raise PermanentStorageError("ec-20260301.sqlite: row 7 is damaged")
        return call(device_id, what, *more, **keys)


class TestADamagedMinute:
    @pytest.mark.parametrize("call", ["minute_digests", "second_digests", "second_text", "record_verdicts"])
    def test_costs_itself_only_and_the_round_says_so(self, call: str) -> None:
        damaged = DamagedStore(call)
        store = cast(Store, damaged)
        store.note_devices({DEVICE: NOON * 1_000_000})
        meter = MemoryMeter({NOON + 60 * m + s: waveform(NOON, 50) for m in range(5) for s in range(3)})
        for minute in range(NOON, NOON + 300, 60):
            store.ingest([batch(DEVICE, minute, {7: "1"})])
        damaged.damaged = (NOON + 60,)
        result, crossed = run_round(store, meter, MINUTES)
        assert (result.verified.through, result.verified.unresolved) == (NOON + 60, 1)
        assert "row 7 is damaged" in result.unreadable
        assert crossed.figures["minutes_unreadable"] == 1
        damaged.damaged = ()
        result, _ = run_round(store, meter, replace(MINUTES, heard=result.heard))
        assert (result.verified.through, result.unreadable) == (NOON + 300, "")

    @pytest.mark.parametrize(
        ("before", "after"), [("000003", "0000a3"), (";000003", ":000003"), ("3.5", "3;5"), ("003,", "900,")]
    )
    def test_by_one_byte_of_a_row_is_repaired_and_so_is_what_follows(
        self, store: Store, before: str, after: str
    ) -> None:
        samples = {us: f"{us}.5" for us in range(9)}
        row = batch(DEVICE, NOON, {us: samples[us] for us in range(6)})
        store.ingest([row._replace(values=row.values.replace(before, after))])
        meter = MemoryMeter({NOON: samples, NOON + 60: samples})
        result, _ = run_round(store, meter, MINUTES)
        assert (result.verified.through, result.verified.unresolved) == (NOON + 300, 0)
        for minute in meter.seconds:
            assert samples.items() <= parse_canonical(store.second_text(DEVICE, minute)).items()

    @pytest.mark.parametrize("call", ["unproven_ranges", "ranges_in", "minutes"])
    def test_a_day_that_cannot_be_read_at_all_costs_only_that_day(self, call: str) -> None:
        midnight = NOON + DAY_S // 2
        store = cast(Store, DamagedStore(call, *range(midnight, midnight + 300, 60)))
        store.note_devices({DEVICE: NOON * 1_000_000})
        task = RoundTask(DEVICE, midnight - 300, midnight + 300, recheck_from=NOON)
        meter = MemoryMeter({s: waveform(NOON, 5) for s in range(midnight - 300, midnight + 300, 30)})
        result, crossed = run_round(store, meter, task)
        assert (result.verified.through, result.verified.unresolved) == (midnight, 5)
        assert list(stored_samples(store, DEVICE, midnight - 300, midnight + 300)) == list(meter.seconds)[:10]
        assert crossed.figures["minutes_unreadable"] == 5
        assert len(crossed.log) == 1


def test_texts_here_are_canonical() -> None:
    assert text_of({5: "1"}) == "000005,1"
