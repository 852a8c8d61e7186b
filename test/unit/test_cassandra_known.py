"""What a writer on Cassandra may take for not stored: never a row that it wrote and has forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ec_server.storage.cassandra_known import KnownRows, place_of
from utilities.model import Batch

LIMIT = 8
MINUTES = (("a", 0), ("b", 60))


def row(minute: tuple[str, int], place: int) -> Batch:
    device_id, start = minute
    return Batch(device_id, start + place // 10, place % 10, place % 10, "", 1, f"{place:032d}")


rows = st.tuples(st.sampled_from(MINUTES), st.integers(0, 40))
removals = st.sampled_from(MINUTES)


@given(st.lists(st.one_of(st.lists(rows, max_size=6), removals), max_size=30))
def test_a_row_above_the_floor_that_is_not_remembered_is_not_stored(calls: list) -> None:
    known = KnownRows(LIMIT)
    written: set[tuple[tuple[str, int], int]] = set()
    for call in calls:
        if isinstance(call, tuple):  # a minute is removed
            assert known.forget([call]) == any(minute == call for minute, _ in written)
            written = {one for one in written if one[0] != call}
            assert known.is_same(row(call, 0).key, row(call, 0).checksum) is None
            continue
        for minute in MINUTES:
            places = [place for of, place in call if of == minute]
            known.add(minute, [row(minute, place) for place in places])
            written |= {(minute, place) for place in places}
        for minute in MINUTES:
            for place in range(41):
                batch = row(minute, place)
                is_above = place_of(batch) > known.floor(minute)
                is_new = known.is_same(batch.key, batch.checksum) is None and is_above
                assert not (is_new and (minute, place) in written)


def test_rows_in_their_order_are_always_above_the_floor() -> None:
    known = KnownRows(LIMIT)
    for place in range(100):
        batch = row(MINUTES[0], place)
        assert known.is_same(batch.key, batch.checksum) is None
        assert place_of(batch) > known.floor(MINUTES[0])
        known.add(MINUTES[0], [batch])
