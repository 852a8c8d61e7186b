"""Packed blocks: whatever rows go in, the same come out; what cannot be packed is left as it is."""

from __future__ import annotations

import random

import independent_block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import (
    DEVICE,
    FORMS,
    INSERTED_US,
    ODD,
    SECOND,
    every,
    jittered_clock,
    regular_clock,
    rows_of,
    signal,
)

from ec_server.packing import float_values
from ec_server.packing.block import Row, pack, unpack
from ec_server.packing.decimal_values import FIXED
from ec_server.packing.float_values import DIRECT, TABLE
from ec_server.packing.number_scan import scan
from ec_server.packing.parts import split_parts
from ec_server.storage.merge import batch_of
from utilities.checksum_util import join_rows
from utilities.errors import BlockError

TEXT = 0


def oldest_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.rank, row.batch.start_us, row.batch.end_us, row.tie))


def text_of(rows: list[Row]) -> str:
    return join_rows((batch.start_us, batch.end_us, batch.values) for batch, *_ in oldest_first(rows))


def check_packs(rows: list[Row]) -> bytes:
    packed = pack(rows)
    assert packed.block is not None
    assert packed.left == []
    block = unpack(packed.block)
    assert block.rows() == oldest_first(rows)
    assert block.second_text() == text_of(rows)
    return packed.block


def independently(block: bytes) -> list[Row]:
    device, second, rows = independent_block.decode(block)
    return [Row(batch_of(device, second, text), *order) for _, _, text, _, _, *order in rows]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 44, 5000])
def test_rows_of_each_form_of_number_come_back_as_they_were(form: str, count: int) -> None:
    values = [FORMS[form](value) for value in signal(count, count)]
    rows = rows_of(regular_clock(count), values, every(44, count))
    block = check_packs(rows)
    assert independently(block) == rows


@pytest.mark.parametrize("form", FORMS)
def test_odd_numbers_between_regular_ones_are_kept_as_they_are(form: str) -> None:
    values = [FORMS[form](value) for value in signal(4000, 1)]
    for place, odd in zip(range(0, 4000, 300), ODD):
        values[place] = odd
    rows = rows_of(regular_clock(4000), values, every(20, 4000))
    assert independently(check_packs(rows)) == rows


_value = st.one_of(
    st.sampled_from(ODD),
    st.integers(-(10**12), 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map("{:.9g}".format),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**9), 10**9, places=3).map(str),
    st.from_regex(r"[+-]?([0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12})([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
_values = st.one_of(
    *(st.lists(one, min_size=1, max_size=60) for one in (_value, st.decimals(-999, 999, places=2).map(str))),
    st.lists(st.floats(0, 1000, width=32).map("{:.9g}".format), min_size=1, max_size=60),
)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_values, st.integers(0, 2**31)), min_size=1, max_size=6))
def test_any_rows_with_overlaps_come_back_as_they_were(parts: list[tuple[list[str], int]]) -> None:
    rows: dict[tuple[int, int], Row] = {}
    for rank, (values, seed) in enumerate(parts):
        choose = random.Random(seed)
        first = choose.randrange(0, 900_000)
        us = sorted(
            choose.sample(range(first, first + choose.choice((len(values), 500, 99_000))), len(values))
        )
        ((batch, inserted_us, *_),) = rows_of(us, values, ())
        moment = inserted_us - choose.choice((0, 0, 7))
        rows[batch.start_us, batch.end_us] = Row(batch, moment, 10_000 - 3 * (rank // 2), rank % 2)
    block = check_packs(list(rows.values()))
    assert independently(block) == oldest_first(list(rows.values()))


@pytest.mark.parametrize("count", [1, 43, 1000, 20_000, 44_000, 200_000, (1 << 18) + 8])
def test_a_second_of_any_size_comes_back_as_it_was(count: int) -> None:
    values = [f"{value:.3f}" for value in signal(count, 3)]
    check_packs(rows_of(regular_clock(count), values, every(44, count)))


def test_lost_messages_and_a_jittered_clock_come_back_as_they_were() -> None:
    us = jittered_clock(44_000, 5)
    values = [f"{value:.3f}" for value in signal(len(us), 3)]
    rows = rows_of(us, values, every(44, len(us)))
    check_packs([row for row in rows if random.Random(row[2]).random() > 0.01])


def test_rows_cut_anywhere_come_back_as_they_were() -> None:
    choose = random.Random(9)
    cuts = [choose.randrange(44_000) for _ in range(700)]
    values = [f"{value:.3f}" for value in signal(44_000, 3)]
    check_packs(rows_of(regular_clock(44_000), values, cuts))


def test_old_and_new_ranks_and_any_insert_time_come_back_as_they_were() -> None:
    values = [f"{value:.3f}" for value in signal(440, 3)]
    rows = rows_of(regular_clock(440), values, every(44, 440))
    ranks = [1, 2, 3, INSERTED_US, INSERTED_US * 2, INSERTED_US * 2 + 1, 2**50, 2**50 + 9, 2**51, 2**52]
    rows = [Row(batch, (-1) ** i * inserted, ranks[i], i % 3) for i, (batch, inserted, *_) in enumerate(rows)]
    check_packs(rows)


def test_a_regular_clock_and_regular_cuts_cost_next_to_nothing() -> None:
    values = ["1.000"] * 44_000
    assert len(check_packs(rows_of(regular_clock(44_000), values, every(44, 44_000)))) < 0.01 * 44_000


def test_gaps_and_a_rounding_clock_cost_little() -> None:
    us = [round(i * 1_000_000 / 44_000) for i in range(44_000) if i % 4400 > 44]
    rows = rows_of(us, ["1.000"] * len(us), every(44, len(us)))
    assert len(check_packs(rows)) < 0.012 * 44_000


def test_three_decimals_take_less_than_a_fifth_of_their_text() -> None:
    values = [f"{value:.3f}" for value in signal(44_000, 3)]
    rows = rows_of(regular_clock(44_000), values, every(44, 44_000))
    assert len(check_packs(rows)) < sum(len(batch.values) for batch, *_ in rows) / 5


def _altered(row: Row, **fields: object) -> Row:
    return row._replace(batch=row.batch._replace(**fields))  # type: ignore[arg-type]


def test_rows_that_a_block_cannot_give_back_are_left_and_the_others_packed() -> None:
    rows = rows_of(regular_clock(500), [f"{value:.3f}" for value in signal(500, 3)], every(50, 500))
    odd = [
        _altered(rows[0], checksum="0" * 32),
        _altered(rows[1], count=49),
        _altered(rows[2], start_us=rows[2][0].start_us + 1),
        _altered(rows[3], end_us=0),
        Row(batch_of(DEVICE, SECOND, "000001,1;000001,2"), 1, 1),
        Row(batch_of(DEVICE, SECOND, "000003,1;000002,2"), 1, 2),
        _altered(rows[4], values="rubbish"),
        _altered(rows[5], values="000001,\u0661"),
        Row(batch_of(DEVICE, SECOND, "000001,1")._replace(values="000001,"), 1, 3),
    ]
    packed = pack([*odd, *rows[6:]])
    assert packed.left == odd
    assert packed.block is not None
    assert unpack(packed.block).rows() == rows[6:]
    assert pack(odd) == (None, odd)


def test_rows_of_two_seconds_or_devices_are_refused() -> None:
    one, other = rows_of([1, 2], ["1", "2"], [1])
    with pytest.raises(ValueError, match="one second of one device"):
        pack([one, _altered(other, second=SECOND + 1)])
    with pytest.raises(ValueError, match="one second of one device"):
        pack([one, _altered(other, device_id="meter-1")])


def test_no_rows_make_no_block() -> None:
    assert pack([]) == (None, [])


def test_every_damaged_byte_is_noticed() -> None:
    block = check_packs(rows_of(regular_clock(100), ["1.5"] * 100, [50]))
    for place in range(len(block)):
        damaged = bytearray(block)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(BlockError):
            unpack(bytes(damaged))
    for length in range(len(block)):
        with pytest.raises(BlockError):
            unpack(block[:length])


def test_a_codec_that_would_not_give_back_the_text_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in a codec costs space, never a sample."""
    from ec_server.packing import decimal_values

    rows = rows_of(regular_clock(300), [f"{value:.3f}" for value in signal(300, 3)], every(44, 300))
    before = check_packs(rows)
    monkeypatch.setattr(decimal_values, "_step", lambda numbers: 2)
    assert len(check_packs(rows)) > len(before)


def test_blocks_are_the_same_for_the_same_rows_in_any_order() -> None:
    rows = rows_of(regular_clock(1000), [f"{value:.3f}" for value in signal(1000, 3)], every(44, 1000))
    shuffled = list(rows)
    random.Random(4).shuffle(shuffled)
    assert pack(rows) == pack(shuffled)


def test_counts_and_times_of_a_block_are_read_without_its_rows() -> None:
    rows = rows_of(regular_clock(1000), ["1"] * 1000, every(44, 1000))
    block = unpack(check_packs(rows))
    assert (block.device_id, block.second) == (DEVICE, SECOND)
    assert int(block.counts.sum()) == len(block.us) == 1000
    assert np.array_equal(block.us, regular_clock(1000))


def codec_of(block: bytes) -> int:
    *_, values = split_parts(block[1:-16], 8)
    return values[0]


@pytest.mark.parametrize("most", [4, 9])
@pytest.mark.parametrize("places", range(1, 8))
@pytest.mark.parametrize("sign", ["", "-"])
def test_decimals_of_any_length_and_sign_are_kept_as_numbers(places: int, sign: str, most: int) -> None:
    """Up to four digits before the point are printed in a way of their own."""
    digits = [1, 9, 10, 12, 99, 100, 1234, 9999, 10_000, 123_456, 1_234_567, 12_345_678, 999_999_999]
    digits = [one for one in digits if one < 10 ** (places + most)]
    values = [f"{sign}{one // 10**places}.{one % 10**places:0{places}d}" for one in digits]
    block = check_packs(rows_of(regular_clock(len(values)), values, [5]))
    assert codec_of(block) == FIXED


@pytest.mark.parametrize("digits", [8, 9])
def test_a_single_sample_of_many_digits_is_kept_as_a_number(digits: int) -> None:
    for point in range(1, digits):
        value = f"{'123456789'[:point]}.{'123456789'[point:digits]}"
        block = check_packs(rows_of([7], [value], []))
        assert codec_of(block) != TEXT or digits - point > 7


def test_floats_are_believed_only_as_far_as_they_are_printed_as_they_were() -> None:
    values = [FORMS["float32"](value) for value in signal(4000, 1)]
    for place in range(100, 4000, 500):
        values[place] = "123.456780"
    for place in range(300, 4000, 700):
        values[place] = "123.456789"  # its float32 prints otherwise
    block = check_packs(rows_of(regular_clock(4000), values, every(44, 4000)))
    assert codec_of(block) in {DIRECT, TABLE}
    assert independently(block) == rows_of(regular_clock(4000), values, every(44, 4000))


@pytest.mark.parametrize("apart", [1 / 64, 0.37, 1000])
@pytest.mark.parametrize("distinct", [1, 30, 20_000, 35_000, 44_000])
def test_floats_go_into_a_table_where_enough_of_them_are_equal(distinct: int, apart: float) -> None:
    """From 0.8 of distinct values on, floats are tried, up to 0.95 a table; the smaller one is taken."""
    steps = np.random.default_rng(distinct).permutation(44_000) % distinct
    values = [f"{np.float32(one * apart + 100.3):.9g}" for one in steps]
    share = len(set(values)) / len(values)
    text = ";".join(f"{us:06d},{value}" for us, value in zip(regular_clock(44_000), values)).encode()
    samples = scan(text)
    assert samples is not None
    tried = {codec for codec, _ in float_values.encode(text, samples)}
    assert (TABLE in tried) == (share < 0.95)
    assert (DIRECT in tried) == (share > 0.8)


def test_a_codec_that_cannot_be_decoded_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in a decoder costs space, never the packing."""
    from ec_server.packing import value_column

    def fails(body: bytes, count: int) -> None:
        raise ValueError("a defect")

    rows = rows_of(regular_clock(300), [f"{value:.3f}" for value in signal(300, 3)], every(44, 300))
    monkeypatch.setitem(value_column._DECODERS, FIXED, fails)
    assert codec_of(check_packs(rows)) != FIXED
