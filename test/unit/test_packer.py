"""The packer: oldest first, only what is old enough, gives way, survives what cannot be packed."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from contract.store_suite import NOON, run_of

from ec_server.storage.contract import Packed
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization import packer
from ec_server.synchronization.packer import Packer
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import PermanentStorageError, RetryableStorageError

HOUR_S = 3600


class Bench:
    """A packer of a real folder, with a clock of the test's."""

    def __init__(
        self,
        folder: Path,
        after_hours: float = 2.0,
        kind: type[SqliteStore] = SqliteStore,
        rounds: Any = None,
    ) -> None:
        self.now_s = float(NOON)
        self.counted: Counter[str] = Counter()
        self.shown: dict[str, int] = {}
        self.rounds = StoreThreads(lambda: SqliteStore(folder), 1)
        self.packer = Packer(
            rounds or self.rounds,
            lambda: kind(folder),
            after_hours,
            self.counted.update,
            self.shown.update,
            lambda: self.now_s,
        )

    def look(self, now_s: float) -> None:
        self.now_s = now_s
        asyncio.run(self.packer.look())

    def close(self) -> None:
        self.packer.close()
        self.rounds.close()


@pytest.fixture
def bench(tmp_path: Path):
    opened: list[Bench] = []

    def make(**options) -> Bench:
        opened.append(Bench(tmp_path, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def store(tmp_path: Path):
    with SqliteStore(tmp_path) as store:
        for minute in range(3):
            store.ingest([run_of("m", NOON + 60 * minute, 0)])
        yield store


def packed_minutes(store: SqliteStore) -> list[bool]:
    return [record.packed for record in store.minutes("m", NOON, NOON + 180)]


def test_minutes_are_packed_two_hours_after_their_end(
    bench: Callable[..., Bench], store: SqliteStore
) -> None:
    one = bench()
    one.look(NOON + 60 + 2 * HOUR_S - 1)
    assert packed_minutes(store) == [False, False, False]
    one.look(NOON + 60 + 2 * HOUR_S)
    assert packed_minutes(store) == [True, False, False]
    one.look(NOON + 9 * HOUR_S)
    assert packed_minutes(store) == [True, True, True]
    assert one.counted == {"packed_samples": 12, "packed_rows": 3}
    assert one.shown["pack_backlog_minutes"] == 0
    assert one.shown["stored_bytes_blocks"] > 0


def test_figures_are_shown_while_a_backlog_is_packed(
    bench: Callable[..., Bench], store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "LOOK_S", 0.0)
    one, shown = bench(), []
    monkeypatch.setattr(one.packer, "_show", lambda figures: shown.append(figures["pack_backlog_minutes"]))
    one.look(NOON + 9 * HOUR_S)
    assert shown == [3, 2, 1, 0]


def test_fractions_of_an_hour_are_allowed_and_0_never_packs(
    bench: Callable[..., Bench], store: SqliteStore
) -> None:
    never, soon = bench(after_hours=0.0), bench(after_hours=0.01)
    never.look(NOON + 1000 * HOUR_S)
    assert packed_minutes(store) == [False, False, False]
    assert never.shown["pack_backlog_minutes"] == 0
    soon.look(NOON + 60 + 36)
    assert packed_minutes(store) == [True, False, False]


class _Rounds:
    """Busy for so many questions; ``asked`` is called at each."""

    def __init__(self, busy: float, asked: Callable[[], object] = lambda: None) -> None:
        self._left, self._asked = busy, asked

    @property
    def busy(self) -> bool:
        self._asked()
        self._left -= 1
        return self._left >= 0


def test_it_waits_for_rounds_that_come_to_an_end(
    bench: Callable[..., Bench], store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "_PATIENCE", math.inf)
    monkeypatch.setattr(packer, "_BUSY_S", 0.001)
    seen: list[int] = []
    rounds = _Rounds(20, lambda: seen.append(one.counted["packed_rows"]))
    one = bench(rounds=rounds)
    one.packer._took_s = 1.0
    one.look(NOON + 9 * HOUR_S)
    assert set(seen[:20]) == {0}
    assert packed_minutes(store) == [True, True, True]


def test_it_goes_on_beside_rounds_that_never_rest(bench: Callable[..., Bench], store: SqliteStore) -> None:
    bench(rounds=_Rounds(math.inf)).look(NOON + 9 * HOUR_S)
    assert packed_minutes(store) == [True, True, True]


class _OneMinuteFails(SqliteStore):
    def pack_minutes(self, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        for one in minutes:
            if one == ("m", NOON):
                raise PermanentStorageError("this one never")
            yield from super().pack_minutes([one])


def test_a_minute_that_cannot_be_packed_stops_no_other(
    bench: Callable[..., Bench], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench(kind=_OneMinuteFails)
    store.ingest([run_of(other, NOON, 0) for other in ("a", "z")])
    one.look(NOON + 9 * HOUR_S)
    assert packed_minutes(store) == [False, True, True]
    assert [record.packed for other in ("a", "z") for record in store.minutes(other, NOON, NOON + 60)] == [
        True,
        True,
    ]
    assert "m 202603011200 is not packed: this one never" in caplog.text
    assert one.shown["pack_backlog_minutes"] == 1


class _Away(SqliteStore):
    calls = 0

    def pack_minutes(self, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        _Away.calls += 1
        if _Away.calls == 2:
            raise RetryableStorageError("locked")
        yield from super().pack_minutes(minutes)


def test_what_fails_for_now_is_tried_again_at_the_next_look(
    bench: Callable[..., Bench], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench(kind=_Away)
    one.look(NOON + 9 * HOUR_S)
    assert "packing is postponed: locked" in caplog.text
    assert packed_minutes(store) == [True, False, False]
    one.look(NOON + 9 * HOUR_S)
    assert packed_minutes(store) == [True, True, True]
