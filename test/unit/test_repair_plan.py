"""What is asked for and what is written, from two texts of one second."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sync_meter import NOON, MemoryMeter, text_of, waveform

from ec_server.synchronization.frames import MAX_RANGES, AskSamples, samples_answer
from ec_server.synchronization.repair_plan import (
    MAX_BATCH,
    MAX_RANGE_REQUESTS,
    Fault,
    SecondRepair,
    checked_text,
    digest_of,
    from_ranges,
    from_whole,
    range_requests,
)
from utilities.checksum_util import join_rows, parse_canonical
from utilities.model import Digest

DEVICE = "meter-7"
SECONDS = st.dictionaries(
    st.integers(0, 40) | st.integers(999_980, 999_999), st.sampled_from(["1", "1.0", "-2e3"]), min_size=1
)


def written_over(stored: str, repair: SecondRepair) -> str:
    """The second after the repair's rows were inserted after the stored one."""
    rows = [(int(stored[:6]), int(stored[stored.rfind(";") + 1 :][:6]), stored)] if stored else []
    return join_rows([*rows, *((b.start_us, b.end_us, b.values) for b in repair.batches)])


class TestRanges:
    def test_lie_exactly_between_stored_neighbours(self) -> None:
        stored = text_of({100: "1", 200: "1", 203: "1"})
        assert range_requests(stored, 9) == (((0, 100), (101, 200), (201, 203), (204, 1_000_000)),)

    def test_of_neighbours_that_touch_are_left_out(self) -> None:
        assert range_requests(text_of({0: "1", 1: "1", 999_999: "1"}), 4) == (((2, 999_999),),)

    @pytest.mark.parametrize(("stored", "wanted"), [("", 5), ("000001,1", 1), ("000001,1;000002,1", 1)])
    def test_are_no_help_where_nothing_is_stored_or_the_device_has_no_more(
        self, stored: str, wanted: int
    ) -> None:
        assert range_requests(stored, wanted) == ()

    @pytest.mark.parametrize("damaged", ["0000a1,1", "000001,1:000002,1", "000002,1;000001,1", "000001,1;5"])
    def test_are_no_help_where_a_damaged_row_is_stored(self, damaged: str) -> None:
        assert range_requests(damaged, 9) == ()

    def test_name_only_wide_steps_where_there_are_many(self) -> None:
        samples = waveform(NOON, 44_000)
        ordered = sorted(samples)
        lost = set(ordered[4400:4444]) | set(ordered[20_000:20_001])
        (ranges,) = range_requests(text_of({us: "1" for us in ordered if us not in lost}), 44_000)
        assert ranges == (
            (ordered[4399] + 1, ordered[4444]),
            (ordered[19_999] + 1, ordered[20_001]),
            (ordered[-1] + 1, 1_000_000),
        )

    def test_beyond_one_request_are_cut_and_beyond_eight_given_up(self) -> None:
        samples = dict.fromkeys(range(0, 1_000_000, 20), "1")
        holed = {us: v for i, (us, v) in enumerate(samples.items()) if i % 12 != 5}
        requests = range_requests(text_of(holed), len(samples))
        assert [len(r) for r in requests] == [MAX_RANGES] * 4 + [len(requests[-1])]
        pairs = {us: "1" for start in range(0, 1_000_000, 100) for us in (start, start + 1, start + 2)}
        assert len(pairs) // 3 > MAX_RANGES * MAX_RANGE_REQUESTS
        assert range_requests(text_of(pairs), 10**6) == ()

    @given(stored=SECONDS, more=SECONDS)
    def test_hold_every_sample_that_is_missing_and_none_that_is_stored(
        self, stored: dict[int, str], more: dict[int, str]
    ) -> None:
        device = more | stored
        if len(device) == len(stored):
            return
        (ranges,) = range_requests(text_of(stored), len(device))
        inside = {us for us in device if any(a <= us < b for a, b in ranges)}
        assert inside == device.keys() - stored.keys()
        fetched = text_of({us: device[us] for us in inside})
        repair = from_ranges(DEVICE, NOON, text_of(stored), [fetched], digest_of(text_of(device)))
        assert repair is not None
        assert (repair.samples, repair.conflicts, repair.extra) == (len(inside), 0, 0)
        assert written_over(text_of(stored), repair) == text_of(device)


class TestARepair:
    @given(stored=SECONDS | st.just({}), device=SECONDS)
    def test_from_a_whole_second_adds_what_is_missing_or_wrong_and_nothing_else(
        self, stored: dict[int, str], device: dict[int, str]
    ) -> None:
        repair = from_whole(DEVICE, NOON, text_of(stored), text_of(device))
        to_write = {us: v for us, v in device.items() if stored.get(us) != v}
        assert {us: v for b in repair.batches for us, v in parse_canonical(b.values).items()} == to_write
        assert repair.samples == len(to_write)
        assert repair.conflicts == sum(us in stored for us in to_write)
        assert repair.extra == len(stored.keys() - device.keys())
        after = text_of(stored | device)
        assert repair.expected == digest_of(after)
        assert written_over(text_of(stored), repair) == after

    @given(stored=SECONDS | st.just({}), device=SECONDS)
    def test_never_spans_a_stored_sample_that_is_right(
        self, stored: dict[int, str], device: dict[int, str]
    ) -> None:
        right = {us for us, v in stored.items() if device.get(us, v) == v}
        for each in from_whole(DEVICE, NOON, text_of(stored), text_of(device)).batches:
            assert not any(each.start_us <= us <= each.end_us for us in right)

    def test_is_cut_at_the_size_of_the_largest_message(self) -> None:
        repair = from_whole(DEVICE, NOON, "", text_of(waveform(NOON, 1000)))
        assert [b.count for b in repair.batches] == [MAX_BATCH] * 3 + [100]

    def test_from_ranges_that_do_not_make_the_second_is_none(self) -> None:
        assert from_ranges(DEVICE, NOON, "000001,1", ["000002,1"], Digest(2, "0" * 32)) is None


class TestAnAnswer:
    def test_of_samples_within_the_ranges_is_taken(self) -> None:
        meter = MemoryMeter({NOON: {5: "1", 10: "2", 20: "3"}})
        ranges = ((5, 6), (10, 21))
        answer = samples_answer(AskSamples(1, NOON, ranges), meter.samples(NOON, ranges), packed=True)
        assert checked_text(answer, ranges, 3) == "000005,1;000010,2;000020,3"

    @pytest.mark.parametrize("text", ["000004,1", "000006,1", "000009,1", "000005,1;000021,1"])
    def test_of_samples_outside_is_refused(self, text: str) -> None:
        ranges = ((5, 6), (10, 21))
        fault = checked_text(samples_answer(AskSamples(1, NOON, ranges), text, packed=True), ranges, 9)
        assert isinstance(fault, Fault)
        assert fault.code == "bad_samples"

    def test_of_more_samples_than_a_second_may_hold_is_refused_before_it_is_unpacked(self) -> None:
        answer = replace(samples_answer(AskSamples(1, NOON), "000005,1", packed=True), count=10, payload=b"?")
        fault = checked_text(answer, None, 9)
        assert isinstance(fault, Fault)
        assert fault.code == "too_many_samples"
