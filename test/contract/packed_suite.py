"""Packing changes nothing that can be read, and nothing of what becomes of a second later: of every engine.

A subclass gives the fixtures ``opens`` (opens another store on the same data) and ``inside`` (looks into the
database as another program does).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import pytest
from contract.store_suite import NOON, batch, check, run_of
from independent_block import decode

from ec_server.storage.contract import Packed, Store
from ec_server.storage.memory_store import MemoryStore
from utilities.model import Batch, MinuteState, StoredRow
from utilities.utc import DAY_S

AFTER = NOON + 3 * DAY_S
Opens = Callable[[], Store]


class Inside(Protocol):
    """Another program's view of the database."""

    def count(self, table: str) -> int:
        """Rows of a table."""

    def blocks(self) -> list[bytes]:
        """The blocks, in the order of their seconds."""

    def damage_blocks(self) -> None:
        """Change a byte of every block."""

    def blocks_set_aside(self) -> int:
        """How many damaged blocks were taken out."""

    def rest(self) -> None:
        """Wait until nobody may be writing to any minute."""


def filled(store: Store) -> list[Batch]:
    """Two seconds of a minute, one of them with an overlap."""
    batches = [
        run_of("m", NOON, 0),
        run_of("m", NOON, 1000),
        run_of("m", NOON, 1020, value="7.25"),
        run_of("m", NOON + 5, 0, value="-0.0"),
    ]
    store.ingest(batches)
    return batches


def pack_all(store: Store, inside: Inside | None = None) -> Packed:
    """Pack whatever there is to pack."""
    if inside is not None:
        inside.rest()
    total = Packed()
    for device_id, minute in store.unpacked_minutes(AFTER, 1000):
        total += store.pack_minute(device_id, minute)
    return total


def everything(store: Store, device_id: str = "m", start: int = NOON, stop: int = NOON + 60) -> list[Any]:
    """All that the contract lets one read of a span, digests from the cache and from the rows."""
    return [
        list(store.rows(device_id, start, stop)),
        [store.second_text(device_id, start + at) for at in (0, 1, 5, 58, 59)],
        store.second_digests(device_id, start, from_rows=True),
        store.second_digests(device_id, start),
        store.minute_digests(device_id, start, stop),
        store.row_counts(device_id, start, stop),
        [(kept.row, kept.reason) for kept in store.replaced_rows(device_id, start, stop)],
    ]


def comparable(store: Store) -> list[Any]:
    rows, texts, from_rows, digests, minutes, counts, replaced = everything(store)
    return [
        [row.batch for row in rows],
        texts,
        from_rows,
        digests,
        minutes,
        counts,
        [(row.batch, reason) for row, reason in replaced],
    ]


def samples_of(text: str) -> dict[int, str]:
    return {int(sample[:6]): sample[7:] for sample in text.split(";")}


class PackedSuite:
    """What every engine that packs keeps."""

    @pytest.fixture
    def opens(self) -> Opens:
        raise NotImplementedError

    @pytest.fixture
    def inside(self) -> Inside:
        raise NotImplementedError

    @pytest.fixture
    def store(self, opens: Opens) -> Store:
        return opens()

    def test_what_can_be_read_is_the_same_and_the_rows_are_gone(self, store: Store, inside: Inside) -> None:
        filled(store)
        before = everything(store)
        assert pack_all(store, inside) == Packed(rows=4, samples=16)
        assert everything(store) == before
        assert (inside.count("ec_consumption"), inside.count("ec_block")) == (0, 2)
        assert store.unpacked_minutes(AFTER, 10) == []
        assert store.minutes("m", NOON, NOON + 60)[0].packed

    def test_proof_is_not_touched(self, store: Store, inside: Inside) -> None:
        filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        inside.rest()
        before = store.minutes("m", NOON, NOON + 60)
        pack_all(store, inside)
        (after,) = store.minutes("m", NOON, NOON + 60)
        assert [replace(after, packed=False)] == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_blocks_are_what_their_documentation_says(self, store: Store, inside: Inside) -> None:
        batches = filled(store)
        rows = list(store.rows("m", NOON, NOON + 1))
        pack_all(store, inside)
        device_id, second, found = decode(inside.blocks()[0])
        assert (device_id, second) == ("m", NOON)
        assert [(text, inserted, rank) for _, _, text, _, _, inserted, rank, _ in found] == [
            (row.batch.values, row.inserted_us, row.rank) for row in rows
        ]
        assert [text for _, _, text, *_ in found] == [b.values for b in batches[:3]]

    def test_only_minutes_that_ended_are_packed(self, store: Store, inside: Inside) -> None:
        filled(store)
        inside.rest()
        assert store.unpacked_minutes(NOON + 59, 10) == []
        assert store.unpacked_minutes(NOON + 60, 10) == [("m", NOON)]
        assert store.count_unpacked(NOON + 60) == 1

    def test_a_store_that_is_open_elsewhere_sees_packed_rows(self, opens: Opens, inside: Inside) -> None:
        one, other = opens(), opens()
        filled(one)
        before = everything(other)
        pack_all(one, inside)
        assert everything(other) == before

    def test_what_is_packed_behind_a_writers_back_is_a_duplicate_to_it(
        self, opens: Opens, inside: Inside
    ) -> None:
        writer, packer = opens(), opens()
        filled(writer)
        pack_all(packer, inside)
        more = [run_of("m", NOON + 7, 0), run_of("m", NOON + 7, 1000)]
        assert writer.ingest(more[:1]).changed == (True,)
        assert writer.ingest(more).changed == (False, True)
        pack_all(packer, inside)
        assert writer.ingest(more).changed == (False, False)
        assert inside.count("ec_consumption") == 0

    def test_a_late_row_stands_beside_the_block_wins_and_is_packed_in_its_turn(
        self, store: Store, inside: Inside
    ) -> None:
        filled(store)
        pack_all(store, inside)
        late = batch("m", NOON, {10: "9", 15: "9"})
        assert store.ingest([late]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,9;000015,9;000020,1.5;")
        assert inside.count("ec_consumption") == 1
        before = everything(store)
        assert pack_all(store, inside) == Packed(rows=1, samples=2)
        assert everything(store) == before
        assert (inside.count("ec_consumption"), inside.count("ec_block")) == (0, 2)

    def test_a_duplicate_of_a_packed_row_changes_nothing(self, store: Store, inside: Inside) -> None:
        batches = filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store, inside)
        before = everything(store)
        assert store.ingest([*batches, batches[0]]).changed == (False,) * 5
        assert store.replay(list(before[0])).changed == (False,) * 4
        assert everything(store) == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        assert inside.count("ec_consumption") == 0

    def test_a_message_of_a_packed_rows_key_is_merged_and_the_packed_row_kept(
        self, store: Store, inside: Inside
    ) -> None:
        first, *_ = filled(store)
        pack_all(store, inside)
        other = batch("m", NOON, {0: "8", 5: "8", 30: "1.5"})
        assert store.ingest([other]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,8;000005,8;000010,1.5;000020,1.5;000030,1.5;")
        ((kept, reason),) = everything(store)[-1]
        assert (kept.batch, reason) == (first, "message")
        assert store.ingest([first, other]).changed == (False, False)
        before = everything(store)
        pack_all(store, inside)
        assert everything(store) == before
        assert store.ingest([first, other]).changed == (False, False)

    def test_a_repair_of_a_packed_row_wins_and_the_packed_row_is_kept(
        self, store: Store, inside: Inside
    ) -> None:
        first, *_ = filled(store)
        pack_all(store, inside)
        repair = batch("m", NOON, {0: "3", 10: "3", 20: "3", 30: "3"})
        assert store.repair([repair]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,3;000010,3;000020,3;000030,3;")
        ((kept, reason),) = everything(store)[-1]
        assert (kept.batch, reason) == (first, "repair")
        before = everything(store)
        pack_all(store, inside)
        assert everything(store) == before
        assert store.repair([repair]).changed == (False,)

    def test_a_replayed_row_of_an_older_rank_does_not_win_over_the_block(
        self, store: Store, inside: Inside
    ) -> None:
        filled(store)
        pack_all(store, inside)
        old = StoredRow(batch("m", NOON, {10: "9", 15: "9"}), 10**15, 10**15)
        assert store.replay([old]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,1.5;000015,9;")
        before = everything(store)
        pack_all(store, inside)
        assert everything(store) == before

    @pytest.mark.parametrize("same_key", [True, False])
    def test_a_replayed_row_of_a_packed_rows_rank_is_stored_and_counted_once(
        self, store: Store, inside: Inside, same_key: bool
    ) -> None:
        """Ranks of two servers may meet when their data is moved into one."""
        memory = MemoryStore()
        packed = StoredRow(run_of("m", NOON, 0), NOON * 10**6, NOON * 10**6)
        late = [
            packed._replace(batch=run_of("m", NOON, 0, value="9.75")),
            packed._replace(batch=run_of("m", NOON, 500, value="1.5")),
        ]
        for one in (store, memory):
            one.replay([packed])
        pack_all(store, inside)
        rows = late if same_key else late[1:]
        assert [store.replay([row]).changed for row in rows] == [memory.replay([row]).changed for row in rows]
        for _ in range(2):
            assert store.second_text("m", NOON) == memory.second_text("m", NOON)
            assert store.row_counts("m", NOON, NOON + 60) == memory.row_counts("m", NOON, NOON + 60)
            assert len(list(store.rows("m", NOON, NOON + 1))) == 2
            pack_all(store, inside)

    def test_a_damaged_block_costs_its_second_is_named_and_heals_by_repair(
        self, store: Store, opens: Opens, inside: Inside
    ) -> None:
        batches = filled(store)
        pack_all(store, inside)
        text = store.second_text("m", NOON)
        inside.damage_blocks()
        store = opens()
        assert store.second_text("m", NOON) == ""
        assert store.second_digests("m", NOON, from_rows=True) == []
        damage = store.health().damage
        assert damage
        assert all("20260301" in one and "packed second" in one for one in damage)
        pack_all(store, inside)
        assert store.repair([batch("m", NOON, samples_of(text))]).changed == (True,)
        assert store.repair([batches[-1]]).changed == (True,)
        assert store.second_text("m", NOON) == text
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.health().damage == ()
        assert inside.blocks_set_aside() == 2
        assert pack_all(store, inside).rows == 2
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_any_sequence_of_events_has_the_same_result_with_packing_as_without(
        self, opens: Opens, inside: Inside
    ) -> None:
        any_course_of_events(opens(), inside, 0, events=25)


def any_course_of_events(packs: Store, inside: Inside, seed: int, events: int = 60) -> None:
    """The memory engine, which packs nothing, is the measure."""
    choose, model = random.Random(seed), MemoryStore()
    sent: list[Batch] = [run_of("m", NOON, 0)]
    for _ in range(events):
        event = choose.choice(("ingest", "ingest", "again", "repair", "pack", "check"))
        if event == "pack":
            pack_all(packs, inside)
            continue
        if event == "check":
            for one in (packs, model):
                check(one, "m", NOON, MinuteState.PROVEN)
            continue
        second = NOON + choose.choice((0, 0, 1, 59))
        us = sorted(choose.sample((0, 10, 20, 30, 999_999), choose.randint(1, 4)))
        new = batch("m", second, {at: choose.choice(("1", "2", "-0", "3.50")) for at in us})
        batches = [choose.choice(sent)] if event == "again" else [new]
        sent += batches
        results = [(one.repair if event == "repair" else one.ingest)(batches) for one in (packs, model)]
        assert results[0].changed == results[1].changed
        assert packs.unproven_ranges("m", NOON, NOON + 60) == model.unproven_ranges("m", NOON, NOON + 60)
        assert comparable(packs) == comparable(model)
