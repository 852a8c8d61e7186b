"""A second on Cassandra is what its rows are, wherever they stand, and packing keeps it so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ec_server.packing.block import Row, pack, unpack
from ec_server.storage.cassandra_minutes import MinuteLines, WriterLine
from ec_server.storage.cassandra_packing import plan_of_second
from ec_server.storage.cassandra_second import SecondRows, StoredBlock, place_of
from ec_server.storage.merge import batch_of, in_rank
from ec_server.storage.timeuuid import timeuuid
from utilities.checksum_util import join_rows
from utilities.model import MinuteState, StoredRow

DEVICE, SECOND = "m", 1_772_366_400
RANK = SECOND * 1_000_000
KEYS = ((0, 10), (0, 20), (5, 5), (20, 30))


class Loose(NamedTuple):
    """A row of ``ec_consumption`` as the driver gives it."""

    start_us: str
    end_us: str
    ec_consumption_values: str
    values_count: int
    values_checksum: str
    insert_time: Any
    rank: int
    w0: int
    w1: int
    w2: int
    w3: int
    w4: int


def row(key: tuple[int, int], rank: int) -> StoredRow:
    start, end = key
    text = f"{start:06d},{rank}" if start == end else f"{start:06d},{rank};{end:06d},{rank}.5"
    return StoredRow(batch_of(DEVICE, SECOND, text), RANK + rank, RANK + rank)


def loose(stored: StoredRow, checksum: str = "") -> Loose:
    batch, inserted_us, rank = stored
    return Loose(
        f"{batch.start_us:06d}",
        f"{batch.end_us:06d}",
        batch.values,
        batch.count,
        checksum or batch.checksum,
        timeuuid(inserted_us),
        *[rank] * 6,
    )


def block(name: str, rows: Iterable[StoredRow]) -> StoredBlock:
    data, left = pack([Row(*one) for one in rows])
    assert data is not None
    assert left == []
    return StoredBlock(name, unpack(data))


def highest(rows: Iterable[StoredRow]) -> dict[tuple[int, int], StoredRow]:
    found: dict[tuple[int, int], StoredRow] = {}
    for one in sorted(rows, key=lambda one: one.rank):
        found[place_of(one)] = one
    return found


versions = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 6)), max_size=5, unique_by=lambda v: v[0])
"""One row of each of some keys."""


@st.composite
def seconds(draw: st.DrawFn) -> tuple[SecondRows, list[StoredRow]]:
    in_table = [row(*one) for one in draw(versions)]
    in_blocks = [[row(*one) for one in rows] for rows in draw(st.lists(versions, max_size=3)) if rows]
    blocks = [block(f"b{i}", rows) for i, rows in enumerate(in_blocks)]
    second = SecondRows(DEVICE, SECOND, [loose(one) for one in in_table], blocks)
    return second, [*in_table, *(one for rows in in_blocks for one in rows)]


@given(seconds())
def test_of_rows_of_one_key_the_highest_rank_counts_wherever_they_stand(
    given_: tuple[SecondRows, list[StoredRow]],
) -> None:
    second, everywhere = given_
    expected = in_rank(highest(everywhere).values())
    assert second.stored() == expected
    assert second.text() == join_rows((r.batch.start_us, r.batch.end_us, r.batch.values) for r in expected)
    assert second.damage() is None


@given(seconds(), st.booleans())
def test_packing_a_second_changes_nothing_and_leaves_one_block(
    given_: tuple[SecondRows, list[StoredRow]], is_broken_off: bool
) -> None:
    second, _ = given_
    plan = plan_of_second(second)
    blocks = list(second.blocks)
    if plan.block is not None:
        blocks.append(StoredBlock("new", unpack(plan.block)))
    kept = second.loose
    if not is_broken_off:
        gone = {(one.start_us, one.end_us) for one in plan.gone}
        kept = [one for one in kept if (one.start_us, one.end_us) not in gone]
        blocks = [one for one in blocks if one.block_id not in plan.obsolete]
        assert kept == []
        assert len(blocks) == (1 if second.loose or second.blocks else 0)
        assert plan.left == 0
    after = SecondRows(DEVICE, SECOND, kept, blocks)
    assert after.stored() == second.stored()
    if is_broken_off:
        again = plan_of_second(after)
        assert len(again.gone) == len(plan.gone)


def test_a_damaged_row_stays_a_row_and_the_packed_row_of_its_key_stays_packed() -> None:
    packed = [row(key, 1) for key in KEYS[:2]]
    damaged = loose(row(KEYS[0], 5), checksum="0" * 32)
    second = SecondRows(
        DEVICE, SECOND, [damaged, loose(row(KEYS[2], 3))], [block("a", packed), block("b", packed[:1])]
    )
    plan = plan_of_second(second)
    assert plan.left == 1
    assert [one.start_us for one in plan.gone] == ["000005"]
    assert plan.obsolete == ()
    assert plan.block is not None
    after = SecondRows(DEVICE, SECOND, [damaged], [*second.blocks, StoredBlock("new", unpack(plan.block))])
    assert after.stored() == second.stored()
    assert place_of(packed[0]) in after.packed()


def test_a_row_of_a_packed_rows_key_and_rank_with_other_samples_is_not_deleted() -> None:
    """Only another program writes such a row."""
    packed = row(KEYS[0], 1)
    other = batch_of(DEVICE, SECOND, "000000,8;000010,8")
    second = SecondRows(DEVICE, SECOND, [loose(packed._replace(batch=other))], [block("a", [packed])])
    plan = plan_of_second(second)
    assert (plan.gone, plan.left) == ([], 1)


def test_a_row_that_another_program_wrote_in_parts_is_not_packed() -> None:
    """Its cells have other write timestamps: the deletion of the others would leave it in pieces."""
    whole = loose(row(KEYS[0], 5))
    assert plan_of_second(SecondRows(DEVICE, SECOND, [whole])).left == 0
    for changed in ("w1", "w2", "w3", "w4"):
        in_parts = whole._replace(**{changed: whole.w0 + 1})
        assert plan_of_second(SecondRows(DEVICE, SECOND, [in_parts])).left == 1


def test_proof_holds_only_while_the_blocks_know_the_packing_that_the_rows_name() -> None:
    proven = MinuteLines(SECOND, {"w": WriterLine(7, None)}, state=MinuteState.PROVEN)
    proven_text = f"{proven.fingerprint} proven"

    def verdict(packing: int | None, *of_blocks: int | None) -> MinuteState | None:
        lines = MinuteLines(
            SECOND,
            proven.writers,
            state=MinuteState.PROVEN,
            state_version=proven.fingerprint,
            state_proof=proven_text,
            last_packing=packing,
            block_packings=(of_blocks[0], of_blocks[1]),
        )
        return lines.verdict(0)

    assert verdict(None, None, None) is MinuteState.PROVEN  # never packed
    assert verdict(None, 5, None) is MinuteState.PROVEN  # the first packing is under way
    assert verdict(5, 5, None) is MinuteState.PROVEN
    assert verdict(5, 6, 5) is MinuteState.PROVEN  # the next one is under way
    assert verdict(6, 6, 5) is MinuteState.PROVEN
    assert verdict(6, 5, None) is None  # blocks of an older state
    assert verdict(5, None, None) is None  # no blocks
