"""The one suite that every storage engine passes; an engine's test file inherits it.

A subclass gives the fixture ``opens``: a callable that opens another store on the same data, as
another process would. The expected digests are computed here, by code that shares nothing with the
server's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from ec_server.storage.contract import FinishedMinute, Store
from utilities.model import Batch, Digest, MinuteState, StoredRow, Verdict
from utilities.utc import DAY_S, day_of

Opens = Callable[[], Store]

NOON = 1_772_366_400  # 2026-03-01T12:00:00Z
MIDNIGHT = day_of(NOON)


def batch(device_id: str, second: int, samples: dict[int, str]) -> Batch:
    """A batch of ``{microsecond: value}``."""
    text = ";".join(f"{us:06d},{samples[us]}" for us in sorted(samples))
    md5 = hashlib.md5(text.encode()).hexdigest()
    return Batch(device_id, second, min(samples), max(samples), text, len(samples), md5)


def run_of(device_id: str, second: int, start_us: int, count: int = 4, value: str = "1.5") -> Batch:
    """``count`` samples, ten microseconds apart."""
    return batch(device_id, second, {start_us + 10 * i: value for i in range(count)})


def expected_second(samples: dict[int, str]) -> Digest:
    text = ";".join(f"{us:06d},{samples[us]}" for us in sorted(samples))
    return Digest(len(samples), hashlib.md5(text.encode()).hexdigest())


def expected_minute(seconds: dict[str, Digest]) -> Digest:
    lines = "".join(f"{t},{seconds[t].count},{seconds[t].md5}\n" for t in sorted(seconds))
    return Digest(sum(d.count for d in seconds.values()), hashlib.md5(lines.encode()).hexdigest())


def check(store: Store, device_id: str, minute: int, state: MinuteState, **more: int) -> list[int]:
    """Compare a minute as a round does, and put the verdict on record."""
    seen = dict(store.minute_digests(device_id, minute, minute + 60)).get(minute)
    return store.record_verdicts(device_id, [Verdict(minute, state, seen, **more)], 5_000_000)


class StoreSuite:
    @pytest.fixture
    def opens(self) -> Opens:
        raise NotImplementedError

    @pytest.fixture
    def store(self, opens: Opens) -> Store:
        return opens()

    # --- rows -----------------------------------------------------------------------------

    def test_what_was_written_is_read_back_as_it_was(self, store: Store) -> None:
        first, second = run_of("m", NOON, 0), run_of("m", NOON, 1000)
        result = store.ingest([first, second])
        assert result.changed == (True, True)
        assert [row.batch for row in store.rows("m", NOON, NOON + 1)] == [first, second]

    def test_a_batch_written_by_one_is_seen_by_another(self, opens: Opens) -> None:
        one, other = opens(), opens()
        one.ingest([run_of("m", NOON, 0)])
        assert other.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_values_are_kept_letter_by_letter(self, store: Store) -> None:
        odd = batch("m", NOON, {0: "-0", 1: "1e+30", 2: "+5.", 3: ".5E-3", 999_999: "00012"})
        store.ingest([odd])
        assert store.second_text("m", NOON) == odd.values

    def test_the_same_batch_twice_is_one_row(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0)])
        store.ingest([run_of("m", NOON, 0)])
        assert len(list(store.rows("m", NOON, NOON + 1))) == 1

    def test_a_later_row_wins_microsecond_by_microsecond(self, store: Store) -> None:
        store.ingest([batch("m", NOON, {10: "1", 20: "1", 30: "1"})])
        store.ingest([batch("m", NOON, {20: "2", 25: "2"})])
        assert store.second_text("m", NOON) == "000010,1;000020,2;000025,2;000030,1"

    def test_a_row_of_a_second_lists_oldest_insertion_first(self, store: Store) -> None:
        late, early = run_of("m", NOON, 5000), run_of("m", NOON, 0)
        store.ingest([late])
        store.ingest([early])
        assert [row.batch for row in store.rows("m", NOON, NOON + 1)] == [late, early]

    def test_one_call_takes_one_day(self, store: Store) -> None:
        with pytest.raises(ValueError, match="the same UTC day"):
            store.ingest([run_of("m", MIDNIGHT - 1, 0), run_of("m", MIDNIGHT, 0)])
        assert store.second_text("m", MIDNIGHT) == ""

    def test_reading_spans_midnight(self, store: Store) -> None:
        store.ingest([run_of("m", MIDNIGHT - 1, 0)])
        store.ingest([run_of("m", MIDNIGHT, 0)])
        found = [row.batch.second for row in store.rows("m", MIDNIGHT - 60, MIDNIGHT + 60)]
        assert found == [MIDNIGHT - 1, MIDNIGHT]
        assert [m for m, _ in store.minute_digests("m", MIDNIGHT - 60, MIDNIGHT + 60)] == [
            MIDNIGHT - 60,
            MIDNIGHT,
        ]

    def test_devices_do_not_see_each_other(self, store: Store) -> None:
        store.ingest([run_of("a", NOON, 0, value="1"), run_of("b", NOON, 0, value="2")])
        assert store.second_text("a", NOON) == run_of("a", NOON, 0, value="1").values
        assert store.second_text("A", NOON) == ""

    def test_rows_are_counted_by_minute(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON + 60, 0, 7)])
        assert store.row_counts("m", NOON, NOON + 120) == [(NOON, 2, 8), (NOON + 60, 1, 7)]

    def test_nothing_is_read_where_nothing_was_written(self, store: Store) -> None:
        assert store.minute_digests("m", NOON, NOON + 600) == []
        assert store.second_digests("m", NOON) == []
        assert store.row_counts("m", NOON, NOON + 600) == []
        assert store.earliest_minute("m") is None
        assert store.device("m") is None
        assert store.devices() == []

    def test_the_earliest_minute_is_found(self, store: Store) -> None:
        store.ingest([run_of("m", NOON + 61, 0)])
        assert store.earliest_minute("m") == NOON + 60
        store.ingest([run_of("m", NOON - 3 * DAY_S + 5, 0)])
        assert store.earliest_minute("m") == NOON - 3 * DAY_S

    def test_a_minute_is_opened_once(self, opens: Opens) -> None:
        one, other = opens(), opens()
        assert one.ingest([run_of("m", NOON, 0)]).opened == {("m", NOON)}
        assert one.ingest([run_of("m", NOON, 1000)]).opened == frozenset()
        assert other.ingest([run_of("m", NOON, 2000)]).opened == frozenset()

    # --- which row wins -------------------------------------------------------------------

    def test_a_merged_row_does_not_revive_values_that_were_overridden(self, store: Store) -> None:
        store.ingest([batch("m", NOON, {10: "1", 20: "1", 30: "1"})])
        store.repair([batch("m", NOON, {20: "2"})])
        store.ingest([batch("m", NOON, {10: "3", 30: "3"})])
        assert store.second_text("m", NOON) == "000010,3;000020,2;000030,3"

    def test_a_repair_wins_over_every_row_also_over_one_of_its_own_key_that_was_overridden(
        self, store: Store
    ) -> None:
        store.ingest([batch("m", NOON, {10: "1", 20: "1"})])
        store.ingest([batch("m", NOON, {10: "9", 15: "9"})])
        assert store.repair([batch("m", NOON, {10: "1", 20: "1"})]).changed == (True,)
        assert store.second_text("m", NOON) == "000010,1;000015,9;000020,1"
        assert store.repair([batch("m", NOON, {10: "1", 20: "1"})]).changed == (False,)

    def test_a_replayed_row_does_not_win_over_what_was_inserted_later(self, store: Store) -> None:
        store.ingest([batch("m", NOON, {10: "2", 30: "2"})])
        store.replay([StoredRow(batch("m", NOON, {10: "1", 20: "1"}), 1_000_000, 1_000_000)])
        assert store.second_text("m", NOON) == "000010,2;000020,1;000030,2"

    def test_a_replayed_message_does_not_replace_a_repaired_row_of_its_key(self, store: Store) -> None:
        wrong, right = batch("m", NOON, {10: "9", 20: "1"}), batch("m", NOON, {10: "1", 20: "1"})
        store.replay([StoredRow(wrong, 1_000_000, 1_000_000)])
        store.repair([right])
        store.replay([StoredRow(wrong, 1_000_000, 1_000_000)])
        assert store.second_text("m", NOON) == right.values

    def test_rows_keep_moment_and_rank_when_they_are_replayed_elsewhere(
        self, store: Store, opens: Opens
    ) -> None:
        rows = [
            StoredRow(batch("m", NOON, {10: "1", 20: "1"}), 5_000_000, 1_772_366_400_000_009),
            StoredRow(batch("m", NOON, {20: "2", 30: "2"}), 4_000_000, 1_772_366_400_000_010),
        ]
        store.replay(rows)
        assert [(r.batch, r.rank) for r in store.rows("m", NOON, NOON + 1)] == [
            (r.batch, r.rank) for r in rows
        ]
        assert store.second_text("m", NOON) == "000010,1;000020,2;000030,2"

    def test_rows_of_the_same_rank_rank_by_their_key(self, store: Store) -> None:
        high, low = batch("m", NOON, {10: "2", 20: "2"}), batch("m", NOON, {0: "1", 10: "1"})
        rank = 1_772_000_000_000_000
        store.replay([StoredRow(high, 1, rank), StoredRow(low, 1, rank)])
        assert store.second_text("m", NOON) == "000000,1;000010,2;000020,2"
        assert [row.batch for row in store.rows("m", NOON, NOON + 1)] == [low, high]

    def test_within_one_call_messages_count_in_the_order_given(self, store: Store) -> None:
        store.ingest([batch("m", NOON, {0: "1", 10: "1", 20: "1"})])
        overlapping = batch("m", NOON, {10: "3"})
        store.ingest([batch("m", NOON, {0: "2", 10: "2", 20: "2"}), overlapping])
        merged = batch("m", NOON, {0: "2", 10: "2", 20: "2"})
        assert [row.batch for row in store.rows("m", NOON, NOON + 1)] == [merged, overlapping]
        assert store.second_text("m", NOON) == "000000,2;000010,3;000020,2"

    # --- digests --------------------------------------------------------------------------

    def test_digests_are_those_of_the_contract(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON + 7, 0)])
        first = expected_second({us + off: "1.5" for us in (0, 1000) for off in (0, 10, 20, 30)})
        other = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        assert store.second_digests("m", NOON) == [(NOON, first), (NOON + 7, other)]
        minute = expected_minute({"120000": first, "120007": other})
        assert store.minute_digests("m", NOON, NOON + 60) == [(NOON, minute)]

    def test_digests_do_not_depend_on_how_samples_were_cut(self, store: Store) -> None:
        samples = {us: f"{us}.25" for us in range(0, 1000, 7)}
        keys = sorted(samples)
        store.ingest([batch("whole", NOON, samples)])
        for a, b in ((60, 143), (0, 13), (13, 60)):
            store.ingest([batch("cut", NOON, {k: samples[k] for k in keys[a:b]})])
        assert store.second_digests("cut", NOON) == store.second_digests("whole", NOON)

    def test_a_write_after_the_digest_was_asked_for_changes_it(self, opens: Opens) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)])
        before = reader.minute_digests("m", NOON, NOON + 60)
        writer.ingest([run_of("m", NOON, 1000)])
        after = reader.minute_digests("m", NOON, NOON + 60)
        assert before != after
        assert after[0][1].count == 8

    def test_a_published_minute_gives_the_same_digests(self, store: Store) -> None:
        opened = store.ingest([run_of("m", NOON, 0)]).opened
        assert opened
        second = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        store.publish([FinishedMinute("m", NOON, ((NOON, second),), complete=True)])
        assert store.second_digests("m", NOON) == [(NOON, second)]
        assert store.minute_digests("m", NOON, NOON + 60) == [(NOON, expected_minute({"120000": second}))]

    def test_a_minute_that_another_wrote_to_is_not_published(self, opens: Opens) -> None:
        one, other = opens(), opens()
        one.ingest([run_of("m", NOON, 0)])
        other.ingest([run_of("m", NOON, 1000)])
        stale = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        assert one.publish([FinishedMinute("m", NOON, ((NOON, stale),), complete=True)]) == 0
        assert one.second_digests("m", NOON)[0][1].count == 8

    def test_a_late_write_after_publishing_takes_the_digest_away(self, opens: Opens) -> None:
        one, other = opens(), opens()
        for late_writer in (one, other):
            device = f"m{late_writer is one}"
            one.ingest([run_of(device, NOON, 0), run_of(device, NOON + 1, 0)])
            second = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
            finished = FinishedMinute(device, NOON, ((NOON, second), (NOON + 1, second)), complete=True)
            one.publish([finished])
            late_writer.ingest([run_of(device, NOON, 1000)])
            digests = dict(one.second_digests(device, NOON))
            assert (digests[NOON].count, digests[NOON + 1].count) == (8, 4)
            assert one.minute_digests(device, NOON, NOON + 60)[0][1].count == 12

    def test_an_incomplete_publication_is_filled_from_the_rows(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 1, 0)])
        second = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        store.publish([FinishedMinute("m", NOON, ((NOON, second),), complete=False)])
        assert store.second_digests("m", NOON) == [(NOON, second), (NOON + 1, second)]
        assert store.minute_digests("m", NOON, NOON + 60)[0][1].count == 8

    def test_digests_from_rows_equal_the_cached(self, store: Store) -> None:
        store.ingest([run_of("m", NOON + s, us) for s in (0, 3, 59) for us in (5000, 0)])
        cached = store.minute_digests("m", NOON, NOON + 60)
        assert store.minute_digests("m", NOON, NOON + 60, from_rows=True) == cached
        seconds = store.second_digests("m", NOON)
        assert store.second_digests("m", NOON, from_rows=True) == seconds

    def test_minutes_without_a_digest_are_listed_until_it_is_asked_for(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
        waiting = store.minutes_without_digest(NOON + 60)
        assert waiting in ([("m", NOON)], [])  # an engine that caches nothing has nothing to wait for
        for device_id, minute in waiting:
            store.minute_digests(device_id, minute, minute + 60)
        assert store.minutes_without_digest(NOON + 60) == []

    # --- proof ----------------------------------------------------------------------------

    def test_devices_are_recorded_with_first_and_last_moment(self, store: Store) -> None:
        store.note_devices({"b": 2_000_000, "a": 1_000_000})
        store.note_devices({"a": 9_000_000})
        store.note_devices({"a": 3_000_000})
        found = [(d.device_id, d.first_seen_us, d.last_seen_us) for d in store.devices()]
        assert found == [("a", 1_000_000, 9_000_000), ("b", 2_000_000, 2_000_000)]
        record = store.device("a")
        assert record is not None
        assert record.verified_through is None

    def test_a_minute_is_unproven_until_a_verdict(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0)])
        assert store.unproven_ranges("m", NOON, NOON + 180) == [(NOON, NOON + 180)]
        assert check(store, "m", NOON, MinuteState.PROVEN) == []
        assert store.unproven_ranges("m", NOON, NOON + 180) == [(NOON + 60, NOON + 180)]

    def test_an_unresolved_minute_stays_unproven_and_is_counted(self, store: Store) -> None:
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.UNRESOLVED)
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        record = store.device("m")
        assert record is not None
        assert record.unresolved_minutes == 1

    def test_an_unresolved_minute_of_which_nothing_is_stored_is_recorded(self, store: Store) -> None:
        store.note_devices({"m": 1})
        assert check(store, "m", NOON, MinuteState.UNRESOLVED) == []
        record = store.device("m")
        assert record is not None
        assert record.unresolved_minutes == 1
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_an_empty_minute_is_recorded_once(self, store: Store) -> None:
        assert check(store, "m", NOON, MinuteState.EMPTY) == []
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        assert [(r.minute, r.digest, r.state) for r in store.minutes("m", NOON, NOON + 60)] == [
            (NOON, None, MinuteState.EMPTY)
        ]

    def test_data_for_an_empty_minute_makes_it_unproven(self, store: Store) -> None:
        check(store, "m", NOON, MinuteState.EMPTY)
        store.ingest([run_of("m", NOON, 0)])
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_an_unconfirmable_minute_with_rows_is_counted_and_not_asked_again(self, store: Store) -> None:
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.UNCONFIRMABLE, extra=4)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        record = store.device("m")
        assert record is not None
        assert (record.unconfirmable_minutes, record.extra) == (1, 4)

    def test_a_write_to_a_proven_minute_makes_it_unproven(self, opens: Opens) -> None:
        ingest, sync = opens(), opens()
        ingest.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
        for minute in (NOON, NOON + 60):
            check(sync, "m", minute, MinuteState.PROVEN)
        ingest.ingest([run_of("m", NOON, 1000)])
        assert sync.unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 60)]

    def test_a_duplicate_leaves_the_proof_alone(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        store.ingest([run_of("m", NOON, 0)])
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_a_verdict_on_rows_that_changed_meanwhile_is_refused(self, opens: Opens) -> None:
        ingest, sync = opens(), opens()
        ingest.ingest([run_of("m", NOON, 0)])
        seen = sync.minute_digests("m", NOON, NOON + 60)[0][1]
        ingest.ingest([run_of("m", NOON, 1000)])
        verdict = Verdict(NOON, MinuteState.PROVEN, seen)
        assert sync.record_verdicts("m", [verdict], 1) == [NOON]
        assert sync.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_the_verdict_empty_is_refused_if_rows_arrived_meanwhile(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0)])
        verdict = Verdict(NOON, MinuteState.EMPTY, None)
        assert store.record_verdicts("m", [verdict], 1) == [NOON]

    def test_comparisons_are_counted_and_dated(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.UNRESOLVED)
        check(store, "m", NOON, MinuteState.PROVEN)
        (record,) = store.minutes("m", NOON, NOON + 60)
        assert (record.check_times, record.check_time_us) == (2, 5_000_000)
        assert record.state is MinuteState.PROVEN

    def test_comparisons_so_far_outlast_a_write_of_minute_and_seconds_alike(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 1, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        store.ingest([run_of("m", NOON, 1000)])
        of_these = [(NOON, "P"), (NOON, "S"), (NOON + 1, "S")]
        for _ in range(2):
            assert [store.checks("m", NOON)[one] for one in of_these] == [(5_000_000, 1)] * 3
            store.minute_digests("m", NOON, NOON + 60)
        check(store, "m", NOON, MinuteState.PROVEN)
        assert [store.checks("m", NOON)[one][1] for one in of_these] == [2, 2, 2]

    def test_verified_through_is_the_first_minute_that_is_not_settled(self, store: Store) -> None:
        store.note_devices({"m": 1})
        for minute in range(NOON, NOON + 180, 60):
            store.ingest([run_of("m", minute, 0)])
            check(store, "m", minute, MinuteState.PROVEN)
        store.note_coverage("m", NOON)
        record = store.device("m")
        assert record is not None
        assert record.verified_through == NOON + 180

    def test_a_late_write_takes_progress_back_to_its_minute(self, opens: Opens) -> None:
        ingest, sync = opens(), opens()
        sync.note_devices({"m": 1})
        for minute in range(NOON, NOON + 180, 60):
            ingest.ingest([run_of("m", minute, 0)])
            check(sync, "m", minute, MinuteState.PROVEN)
        sync.note_coverage("m", NOON)
        ingest.ingest([run_of("m", NOON + 65, 500)])
        record = sync.device("m")
        assert record is not None
        assert record.verified_through == NOON + 60
        assert sync.unproven_ranges("m", NOON, NOON + 180) == [(NOON + 60, NOON + 120)]

    def test_minutes_that_a_device_records_again_are_stored_until_they_are_removed(
        self, opens: Opens
    ) -> None:
        store = opens()
        store.note_devices({"m": 1, "n": 1})
        store.note_reopened("m", [(NOON, NOON + 60), (NOON + 300, NOON + 360)])
        found = {record.device_id: record.reopened for record in opens().devices()}
        assert found == {"m": ((NOON, NOON + 60), (NOON + 300, NOON + 360)), "n": ()}
        store.note_reopened("m", [])
        record = opens().device("m")
        assert record is not None
        assert record.reopened == ()

    def test_verdicts_concern_one_device(self, store: Store) -> None:
        store.ingest([run_of("a", NOON, 0), run_of("b", NOON, 0)])
        check(store, "a", NOON, MinuteState.PROVEN)
        assert store.unproven_ranges("b", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_conflicts_and_extra_samples_are_summed(self, store: Store) -> None:
        store.note_devices({"m": 1})
        for minute in (NOON, NOON + 60):
            store.ingest([run_of("m", minute, 0)])
            check(store, "m", minute, MinuteState.PROVEN, extra=3, conflicts=2)
        record = store.device("m")
        assert record is not None
        assert (record.conflicts, record.extra) == (4, 6)

    def test_minutes_in_a_state_are_found(self, store: Store) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        check(store, "m", NOON + 60, MinuteState.UNCONFIRMABLE)
        check(store, "m", NOON + 120, MinuteState.EMPTY)
        found = {state: store.ranges_in("m", NOON, NOON + 600, [state]) for state in MinuteState}
        assert found[MinuteState.PROVEN] == [(NOON, NOON + 60)]
        assert found[MinuteState.UNCONFIRMABLE] == [(NOON + 60, NOON + 120)]
        assert found[MinuteState.EMPTY] == [(NOON + 120, NOON + 180)]
        assert store.ranges_in("m", NOON, NOON + 600, [MinuteState.EMPTY, MinuteState.UNCONFIRMABLE]) == [
            (NOON + 60, NOON + 180)
        ]

    def test_empty_minutes_are_counted_apart(self, store: Store) -> None:
        store.note_devices({"m": 1})
        check(store, "m", NOON, MinuteState.EMPTY)
        record = store.device("m")
        assert record is not None
        assert (record.empty_minutes, record.unconfirmable_minutes) == (1, 0)

    def test_the_latest_second_is_known_to_the_day(self, store: Store) -> None:
        assert store.latest_second() is None
        store.ingest([run_of("m", NOON, 0)])
        latest = store.latest_second()
        assert latest is not None
        assert day_of(latest) == MIDNIGHT

    # --- keeping --------------------------------------------------------------------------

    def test_whole_days_before_a_day_are_removed(self, store: Store) -> None:
        for day in range(3):
            store.ingest([run_of("m", MIDNIGHT + day * DAY_S, 0)])
        assert store.remove_before(MIDNIGHT + 2 * DAY_S) == ["20260301", "20260302"]
        assert store.earliest_minute("m") == MIDNIGHT + 2 * DAY_S
        assert store.second_text("m", MIDNIGHT) == ""

    def test_a_removed_day_can_be_written_again(self, opens: Opens) -> None:
        writer, keeper = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)])
        keeper.remove_before(MIDNIGHT + DAY_S)
        writer.ingest([run_of("m", NOON, 1000)])
        assert keeper.second_text("m", NOON) == run_of("m", NOON, 1000).values

    def test_a_healthy_store_says_so(self, store: Store) -> None:
        assert store.health().writable
