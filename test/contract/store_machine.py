"""Any mix of what can happen to a store, held against the memory engine after each step.

An engine's test file gives the class methods to open a store. What only files can suffer (another
program's changes, older files put back, files deleted) is in ``FileMachine``. Rules of the comparison:

1. Rows in their order, what they replaced, texts, digests and counts are those of the memory engine.
2. A minute is settled only if nothing about its rows changed since the verdict (``_may``); where nobody
   took files away, each such minute is (``_must``).

``python test/contract/test_store_machine.py ENGINE STEPS`` (with ``PYTHONPATH=test:.``) runs many steps, a
hundred per example; ``--shrink`` makes what fails as short as it can be.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from unittest.mock import patch

from contract.store_suite import MIDNIGHT, batch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ec_server.storage import ranges
from ec_server.storage.contract import FinishedMinute, Store
from ec_server.storage.memory_store import MemoryStore
from utilities.model import SETTLED, Batch, Digest, MinuteState, StoredRow, Verdict
from utilities.utc import DAY_S, MINUTE_S, day_of, ec_date, minute_of

DEVICES = ("a", "b")
DAYS = (MIDNIGHT, MIDNIGHT + DAY_S)
MINUTES = (*DAYS, DAYS[1] + 60)
SECONDS = (*MINUTES, DAYS[1] + 59)
SPAN = (MIDNIGHT, MIDNIGHT + 2 * DAY_S)
EARLY_RANK = 2**41
"""Of a row that was inserted long before all others."""
_START_US = (MIDNIGHT + DAY_S) * 1_000_000

Place = tuple[str, int]
"""A device and a minute."""

devices = st.sampled_from(DEVICES)
seconds = st.sampled_from(SECONDS)
handles = st.integers(0, 1)
samples = st.dictionaries(
    st.sampled_from((0, 10, 20, 999_999)), st.sampled_from(("1", "2", "-0", "1e-05")), min_size=1
)
pieces = st.lists(st.tuples(devices, st.sampled_from((0, 59, 60)), samples), min_size=1, max_size=4)


class StoreMachine(RuleBasedStateMachine):
    """Two stores on the same data (handle 0 is a writer with a ledger), and one that only reads."""

    clock_steps = True
    """Whether the engine's clock may be stepped."""
    knows_duplicates = True
    """Whether the engine tells every duplicate."""

    def open(self, *, read_only: bool = False) -> Store:
        """Another store on the same data."""
        raise NotImplementedError

    def rest(self) -> None:
        """What has to be done so that nobody seems to be writing to a minute."""

    @initialize()
    def begin(self) -> None:
        self.model = MemoryStore()
        self.now_us = _START_US
        self.sent: list[Batch] = []
        self.lost: set[int] = set()
        self.must: dict[Place, MinuteState] = {}
        self.may: dict[Place, MinuteState] = {}
        self.ledger: dict[Place, MemoryStore] = {}
        self.stores = [self.open(), self.open()]
        self.reader = self.open(read_only=True)
        self.ready = True

    def teardown(self) -> None:
        if hasattr(self, "ready"):
            for store in (*self.stores, self.reader):
                store.close()

    # --- what happens ---------------------------------------------------------------------

    def _at_this_time(self):  # type: ignore[no-untyped-def]
        self.now_us += 1000
        return patch("time.time_ns", lambda: self.now_us * 1000) if self.clock_steps else patch("os.sep", "/")

    def _changed(self, places: Sequence[Place]) -> None:
        for place in places:
            self.must.pop(place, None)
            self.may.pop(place, None)

    def _made_anew(self, day: int) -> None:
        """A lost day gets a file again, which may cost minutes that were found empty meanwhile."""
        if day in self.lost:
            self.lost.remove(day)
            self._forget_verdicts(day)

    def _forget_verdicts(self, day: int) -> None:
        """Nothing of a day has to be settled any more."""
        for place in [place for place in self.must if day_of(place[1]) == day]:
            del self.must[place]

    def _write(
        self, handle: int, name: str, batches: Sequence[Batch], *arguments: object
    ) -> frozenset[Place]:
        """The same call on both; ``arguments`` for the engine and for the model. The opened minutes."""
        engine, model = arguments or (batches, batches)
        self._made_anew(day_of(batches[0].second))
        with self._at_this_time():
            result = getattr(self.stores[handle], name)(engine)
            expected = getattr(self.model, name)(model)
        if self.knows_duplicates:
            assert result.changed == expected.changed
        assert result.opened <= expected.opened  # a minute whose rows were deleted may count as opened or not
        self._changed([(b.device_id, minute_of(b.second)) for b, c in zip(batches, expected.changed) if c])
        return result.opened

    @rule(handle=handles, start=st.sampled_from((MIDNIGHT, MIDNIGHT + DAY_S)), parts=pieces)
    def ingest(self, handle: int, start: int, parts: list[tuple[str, int, dict[int, str]]]) -> None:
        batches = [batch(device, start + at, values) for device, at, values in parts]
        self.sent += batches
        opened = self._write(handle, "ingest", batches)
        if handle == 0:
            self.ledger |= {place: MemoryStore() for place in opened}
            for b in batches:
                if (own := self.ledger.get((b.device_id, minute_of(b.second)))) is not None:
                    own.ingest([b])

    @rule(handle=handles, number=st.integers(0, 10**6))
    @precondition(lambda self: self.sent)
    def ingest_again(self, handle: int, number: int) -> None:
        again = self.sent[number % len(self.sent)]
        opened = self._write(handle, "ingest", [again])
        if handle == 0:
            self.ledger |= {place: MemoryStore() for place in opened}
        if handle == 0 and (own := self.ledger.get((again.device_id, minute_of(again.second)))) is not None:
            own.ingest([again])

    @rule(device=devices, second=seconds, parts=st.lists(samples, min_size=1, max_size=3))
    def repair(self, device: str, second: int, parts: list[dict[int, str]]) -> None:
        self._write(1, "repair", [batch(device, second, values) for values in parts])

    @rule(device=devices, second=seconds, values=samples, at=st.integers(-1, 5))
    def replay(self, device: str, second: int, values: dict[int, str], at: int) -> None:
        """A row as old as one of the second's, or older than all; -1: newer than all."""
        late = batch(device, second, values)
        stored = [list(store.rows(device, second, second + 1)) for store in (self.reader, self.model)]
        ranks = [[EARLY_RANK, *(row.rank for row in rows)] for rows in stored]
        chosen = [max(of) + 2**21 if at < 0 else of[at % len(of)] for of in ranks]
        oldest = min((row.rank for row in stored[0]), default=EARLY_RANK)
        if oldest < EARLY_RANK and chosen[0] <= EARLY_RANK:  # another program's, in a table that was empty
            return
        self.sent.append(late)
        own = [[StoredRow(late, self.now_us, rank)] for rank in chosen]
        self._write(1, "replay", [late], *own)

    @rule(device=devices, second=seconds, at=st.integers(0, 5))
    def replay_what_is_stored(self, device: str, second: int, at: int) -> None:
        stored = [list(store.rows(device, second, second + 1)) for store in (self.reader, self.model)]
        if stored[0]:
            own = [[s[at % len(s)]] for s in stored]
            self._write(1, "replay", [own[1][0].batch], *own)

    @rule(
        handle=handles,
        device=devices,
        minute=st.sampled_from(MINUTES),
        state=st.sampled_from(MinuteState),
        is_late=st.booleans(),
    )
    def verdict(self, handle: int, device: str, minute: int, state: MinuteState, is_late: bool) -> None:
        """Compared with what the rows say now; ``is_late``: with what they no longer say."""
        seen = dict(self.stores[handle].minute_digests(device, minute, minute + MINUTE_S)).get(minute)
        if state is MinuteState.EMPTY and seen is not None:
            state = MinuteState.PROVEN
        if seen is None and state in (MinuteState.PROVEN, MinuteState.UNCONFIRMABLE):
            state = MinuteState.EMPTY
        if state is MinuteState.UNRESOLVED:
            self._made_anew(day_of(minute))
        verdict = Verdict(minute, state, Digest(1, "0" * 32) if is_late else seen, 1, 0)
        changed = self.stores[handle].record_verdicts(device, [verdict], self.now_us)
        assert changed == self.model.record_verdicts(device, [verdict], self.now_us)
        if is_late:  # it may cost the proof that there was
            self.must.pop((device, minute), None)
            return
        self._changed([(device, minute)])
        if state in SETTLED:
            self.must[device, minute] = self.may[device, minute] = state

    @rule(handle=handles, device=devices, minute=st.sampled_from(MINUTES), from_rows=st.booleans())
    def read(self, handle: int, device: str, minute: int, from_rows: bool) -> None:
        """Which caches what was read."""
        store = self.stores[handle]
        assert store.second_digests(device, minute, from_rows=from_rows) == self.model.second_digests(
            device, minute
        )
        span = (device, minute, minute + MINUTE_S)
        assert store.minute_digests(*span, from_rows=from_rows) == self.model.minute_digests(*span)

    @rule(number=st.integers(0, 10**6), complete=st.booleans())
    @precondition(lambda self: self.ledger)
    def publish(self, number: int, complete: bool) -> None:
        """What the ledger of handle 0 saw, which need not be all of it."""
        place = sorted(self.ledger)[number % len(self.ledger)]
        own = self.ledger.pop(place).second_digests(*place)
        seen = tuple(own if complete else own[:1])
        self.stores[0].publish([FinishedMinute(*place, seen, complete)])

    @rule(handle=handles, device=devices, minute=st.sampled_from(MINUTES))
    def pack(self, handle: int, device: str, minute: int) -> None:
        """Which changes nothing that is compared."""
        self.rest()
        self.stores[handle].pack_minute(device, minute)

    @rule(days=st.integers(-400, 400))
    def step_the_clock(self, days: int) -> None:
        self.now_us = max(EARLY_RANK * 8, self.now_us + days * DAY_S * 1_000_000)

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        self.stores[handle].close()
        self.stores[handle] = self.open()
        if handle == 0:
            self.ledger.clear()

    @rule(day=st.sampled_from(DAYS))
    def remove_days(self, day: int) -> None:
        assert set(self.model.remove_before(day)) <= set(self.stores[1].remove_before(day))
        for place in [place for place in self.may if place[1] < day]:
            self.must.pop(place, None)
            if self.may[place] is not MinuteState.EMPTY:
                del self.may[place]

    # --- what must hold -------------------------------------------------------------------

    @invariant()
    def everything_is_as_in_memory(self) -> None:
        if not hasattr(self, "ready"):
            return
        for device in DEVICES:
            self._compare(device)
            settled = ranges.subtract([SPAN], self.reader.unproven_ranges(device, *SPAN))
            found = {(device, minute) for minute in ranges.minutes_in(settled)}
            allowed = {place for place in self.may if place[0] == device}
            assert found <= allowed, f"settled though rows changed: {sorted(found - allowed)}"
            needed = {place for place in self.must if place[0] == device}
            assert found >= needed, f"not settled: {sorted(needed - found)}"
            for state in SETTLED:
                there = self.reader.ranges_in(device, *SPAN, [state])
                assert all(self.may[device, m] is state for m in ranges.minutes_in(there))

    def _compare(self, device: str) -> None:
        reader, model = self.reader, self.model
        assert self._rows(reader, device) == self._rows(model, device)
        assert self._replaced(reader, device) == self._replaced(model, device)
        assert reader.minute_digests(device, *SPAN) == model.minute_digests(device, *SPAN)
        assert reader.row_counts(device, *SPAN) == model.row_counts(device, *SPAN)
        assert reader.earliest_minute(device) == model.earliest_minute(device)
        for minute in MINUTES:
            assert reader.second_digests(device, minute) == model.second_digests(device, minute)
        for second in SECONDS:
            assert reader.second_text(device, second) == model.second_text(device, second)

    @staticmethod
    def _rows(store: Store, device: str) -> list[Batch]:
        return [row.batch for row in store.rows(device, *SPAN)]

    @staticmethod
    def _replaced(store: Store, device: str) -> list[tuple[Batch, str]]:
        return sorted((kept.row.batch, kept.reason) for kept in store.replaced_rows(device, *SPAN))


class FileMachine(StoreMachine):
    """What may happen to day files from outside."""

    def copy_day(self, day: int) -> object | None:
        """A consistent copy of the day's file, as a backup tool makes it; None if there is none."""
        raise NotImplementedError

    def put_back(self, day: int, saved: object | None) -> None:
        """Put a copy in the file's place; None: delete the file."""
        raise NotImplementedError

    def by_hand(self, day: int, statement: str) -> None:
        """Another program's SQL on a day's file, if there is one."""
        raise NotImplementedError

    @initialize()
    def no_copies(self) -> None:
        self.saved: dict[int, tuple[object | None, MemoryStore]] = {}

    @rule(day=st.sampled_from(DAYS))
    def back_up(self, day: int) -> None:
        self.saved[day] = (self.copy_day(day), copy.deepcopy(self.model))

    @rule(day=st.sampled_from(DAYS))
    @precondition(lambda self: self.saved)
    def restore(self, day: int) -> None:
        if day in self.saved:
            saved, model = self.saved[day]
            self._day_becomes(day, saved, model)

    @rule(day=st.sampled_from(DAYS))
    def delete_file(self, day: int) -> None:
        self._day_becomes(day, None, MemoryStore())

    def _day_becomes(self, day: int, saved: object | None, model: MemoryStore) -> None:
        for device in DEVICES:  # what comes and goes between two looks of the server, nobody can know
            self.stores[1].unproven_ranges(device, *SPAN)
        self.put_back(day, saved)
        self.lost.add(day)
        there = copy.deepcopy(model)
        for device in DEVICES:
            mine = self.model._rows.setdefault(device, {})
            lost = {s for s in mine if day_of(s) == day}
            came = {s: rows for s, rows in there._rows.get(device, {}).items() if day_of(s) == day}
            for second in lost | came.keys():
                if mine.get(second, {}) != came.get(second, {}):
                    self._changed([(device, minute_of(second))])
            for second in lost:
                del mine[second]
            mine.update(came)
            kept = [r for r in self.model._replaced.get(device, []) if day_of(r.row.batch.second) != day]
            back = [r for r in there._replaced.get(device, []) if day_of(r.row.batch.second) == day]
            self.model._replaced[device] = kept + back
        self._forget_verdicts(day)

    @rule(device=devices, second=seconds)
    def delete_rows_by_hand(self, device: str, second: int) -> None:
        if self.model._rows.get(device, {}).get(second):
            for table in ("ec_consumption", "ec_block"):
                self.by_hand(day_of(second), f"DELETE FROM {table} WHERE {_where(device, second)}")
            self.model._rows[device][second] = {}
            self.model._verdicts.get(device, {}).pop(minute_of(second), None)
            self._changed([(device, minute_of(second))])

    @rule(device=devices, second=seconds, values=samples)
    def insert_by_hand(self, device: str, second: int, values: dict[int, str]) -> None:
        """Ranks after everything in the table; a key that is there already is refused."""
        new = batch(device, second, values)
        there = self.model._rows.get(device, {}).get(second, {})
        if (new.start_us, new.end_us) in there or not self.copy_exists(day_of(second)):
            return
        time_text = _time(second)
        self.by_hand(
            day_of(second),
            f"INSERT INTO ec_consumption VALUES ('{device}', '{ec_date(second)}', '{time_text}',"
            f" '{new.start_us:06d}', '{new.end_us:06d}', '{new.values}', {new.count}, '{new.checksum}',"
            " '2026-03-01T00:00:00.000000+00:00')",
        )
        self.model.ingest([new])
        self._changed([(device, minute_of(second))])
        # What comes and goes between two looks of the server, nobody can know.
        self.stores[1].unproven_ranges(device, *SPAN)

    def copy_exists(self, day: int) -> bool:
        """Whether the day has a file."""
        raise NotImplementedError


def _where(device: str, second: int) -> str:
    return f"device_id = '{device}' AND ec_date = '{ec_date(second)}' AND ec_time = '{_time(second)}'"


def _time(second: int) -> str:
    at = second - day_of(second)
    return f"{at // 3600:02d}{at // 60 % 60:02d}{at % 60:02d}"
