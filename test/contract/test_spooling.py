"""While the database is away batches wait in the spool; afterwards all of them are in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from contract.test_writer import NOW, Bench, body, until

from ec_server.account.figures import RECEIVER_FIGURES, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_settlement import settle
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.spool import Drained, Spool
from ec_server.ingest.spooling import LeftSpool
from ec_server.storage.contract import WriteResult
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import RawMessage, StoredRow


class Away:
    """Keeps the database from taking anything, as another program's exclusive lock does."""

    def __init__(self, folder: Path) -> None:
        self._connection = apsw.Connection(str(next(folder.glob("ec-*.sqlite"))))
        self._connection.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(limit_bytes: int = 10_000_000, left: Sequence[int] = ()) -> Bench:
        folder = tmp_path / "spool"
        spool = Spool(folder / "receiver-0.sqlite", limit_bytes)
        others = [LeftSpool(folder / f"receiver-{n}.sqlite", tmp_path / "run", limit_bytes) for n in left]
        made.append(Bench(tmp_path, spool=spool, left=others))
        return made[-1]

    yield make
    for bench in made:
        bench.end()


def rows_in(folder: Path) -> int:
    with SqliteStore(folder, read_only=True) as store:
        return len(list(store.rows("m", NOW, NOW + 1)))


def test_batches_wait_in_the_spool_and_reach_the_database_afterwards(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()
    away = Away(tmp_path)
    bench.send(*[body("m", NOW, us) for us in range(1000, 50_000, 1000)])
    until(lambda: bench.page.figures()["spooled"] == 49, "the batches to be in the spool")
    assert queued(bench.page.figures()) == 0
    until(lambda: any("spool" in trouble for trouble in bench.troubles), "the trouble to be told")
    away.end()
    until(lambda: bench.page.figures()["spooled"] == 0, "the spool to be empty")
    assert bench.page.figures()["stored"] == 50
    assert rows_in(tmp_path) == 50
    until(lambda: bench.troubles[-1] == "", "the trouble to be over")
    bench.send(body("m", NOW, 60_000))
    assert bench.settled()["stored"] == 51


def test_what_waits_is_drained_after_a_restart(benches: Callable[..., Bench], tmp_path: Path) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()
    away = Away(tmp_path)
    bench.send(*[body("m", NOW, us) for us in range(1000, 10_000, 1000)])
    until(lambda: bench.page.figures()["spooled"] == 9, "the batches to be in the spool")
    bench.end()
    away.end()
    again = benches()
    until(lambda: again.page.figures()["spooled"] == 0, "the spool to be empty")
    figures = again.page.figures()
    assert (figures["received"], figures["stored"], figures["lost"]) == (10, 10, 0)
    assert rows_in(tmp_path) == 10


def test_a_full_spool_holds_the_batches_back_and_loses_none(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches(limit_bytes=400)
    bench.send(body("m", NOW, 0))
    bench.settled()
    away = Away(tmp_path)
    bench.send(body("m", NOW, 1000))
    until(lambda: bench.page.figures()["spooled"] == 1, "the first to be in the spool")
    bench.send(*[body("m", NOW, us) for us in range(2000, 30_000, 1000)])
    until(lambda: any("is full" in trouble for trouble in bench.troubles), "the full spool to be told")
    assert queued(bench.page.figures()) == 28
    away.end()
    assert bench.settled()["stored"] + bench.page.figures()["spooled"] == 30
    until(lambda: bench.page.figures()["spooled"] == 0, "the spool to be empty")
    assert rows_in(tmp_path) == 30


def test_what_was_spooled_when_the_writer_died_is_not_spooled_again(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()
    bench.end()
    # Two more came; the writer had them on the disk of the spool when it died, and had not said so.
    bench.ring = IntakeRing(bench.ring.path, bench.page, 2000)  # opens the closed one again
    for us in (1000, 2000):
        bench.ring.put(RawMessage(body("m", NOW, us).encode(), "", 0))
    taker = Taker(bench.ring.path, bench.page)
    taker.begin(settle(replace(taker.evidence(), in_spool=0)))
    taker.take(10, 1.0)
    taker.note_group_end(taker.place)
    spool = Spool(tmp_path / "spool" / "receiver-0.sqlite", 10_000_000)
    spool.append(
        [batch_of("m", NOW, f"{us:06d},0.5;{us + 1:06d},1.5;{us + 2:06d},2.5") for us in (1000, 2000)], 1
    )
    spool.close()
    again = benches()
    until(lambda: again.page.figures()["stored"] == 3, "the batches to be stored")
    figures = again.settled()
    assert (figures["received"], figures["duplicate"], figures["taken_over"]) == (3, 0, 0)


def left_by(number: int, folder: Path, count: int) -> WorkerPage:
    """A spool with so many batches, and the page of the worker that left it."""
    (folder / "run").mkdir(exist_ok=True)
    page = WorkerPage.create(folder / "run" / f"receiver-{number}.page", RECEIVER_FIGURES)
    spool = Spool(folder / "spool" / f"receiver-{number}.sqlite", 10_000_000)
    for us in range(1000, 1000 * (count + 1), 1000):
        spool.append([batch_of("m", NOW, f"{us:06d},1")], us)
        page.count_received()
    page.apply({"spooled": count})
    spool.close()
    return page


def test_the_spool_of_a_worker_that_is_no_more_is_drained_and_settled_in_its_own_account(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    page = left_by(7, tmp_path, 3)
    bench = benches(left=[7])
    until(lambda: page.figures()["stored"] == 3, "the batches to be stored")
    until(lambda: not (tmp_path / "spool" / "receiver-7.sqlite").exists(), "the empty spool to go")
    assert (page.figures()["spooled"], page.figures()["taken_over"], queued(page.figures())) == (0, 0, 0)
    assert bench.page.figures()["stored"] == 0
    assert rows_in(tmp_path) == 3


def test_a_death_while_a_left_spool_is_drained_leaves_every_batch_counted(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    page = left_by(7, tmp_path, 3)
    spool = Spool(tmp_path / "spool" / "receiver-7.sqlite", 10_000_000)
    first, group = spool.peek(), None
    assert first
    with SqliteStore(tmp_path) as store:
        store.replay(first.rows)
    spool.remove(
        first.token, Drained(len(first.rows), 0, 0, 0)
    )  # stored and removed; the account was not told
    group = spool.peek()
    assert group
    with SqliteStore(tmp_path) as store:
        store.replay(group.rows)  # stored; not even removed
    spool.close()
    benches(left=[7])
    until(lambda: page.figures()["spooled"] == 0, "the spool to be empty")
    figures = page.figures()
    assert (figures["received"], figures["stored"], figures["duplicate"]) == (3, 2, 1)
    assert queued(figures) == figures["taken_over"] == 0
    assert rows_in(tmp_path) == 3


def test_a_death_after_a_row_was_set_aside_counts_it_as_unstorable(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    page = left_by(7, tmp_path, 3)
    spool = Spool(tmp_path / "spool" / "receiver-7.sqlite", 10_000_000)
    first = spool.peek()
    assert first
    spool.remove(first.token, Drained(0, 0, 1, 0), first.rows, "refused")  # the account was not told
    spool.close()
    benches(left=[7])
    until(lambda: page.figures()["spooled"] == 0, "the spool to be empty")
    figures = page.figures()
    assert (figures["stored"], figures["rejected_unstorable"]) == (2, 1)
    assert queued(figures) == figures["taken_over"] == 0
    benches(left=[7])  # and again: it is not counted twice
    assert page.figures() == figures


def test_a_writer_counts_what_the_one_before_had_set_aside(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()
    away = Away(tmp_path)
    bench.send(body("m", NOW, 1000))
    until(lambda: bench.page.figures()["spooled"] == 1, "the batch to be in the spool")
    bench.end()
    away.end()
    spool = Spool(tmp_path / "spool" / "receiver-0.sqlite", 10_000_000)
    group = spool.peek()
    assert group
    spool.remove(group.token, Drained(0, 0, 1, 0), group.rows, "refused")  # the account was not told
    spool.close()
    again = benches()
    until(lambda: again.page.figures()["spooled"] == 0, "the account to agree with the spool")
    figures = again.settled()
    assert (figures["stored"], figures["rejected_unstorable"], figures["received"]) == (1, 1, 2)
    assert figures["lost"] == figures["taken_over"] == 0


def test_a_large_left_spool_is_drained_beside_new_messages(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    page = left_by(7, tmp_path, 300)
    bench = benches(left=[7])
    bench.send(body("m", NOW, 500_000))
    assert bench.settled()["stored"] == 1
    until(lambda: page.figures()["stored"] == 300, "the left batches to be stored")


def test_many_small_groups_are_stored_by_few_calls(
    benches: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = left_by(7, tmp_path, 300)
    calls: list[int] = []
    replay = SqliteStore.replay

    def counted(store: SqliteStore, rows: Sequence[StoredRow]) -> WriteResult:
        calls.append(len(rows))
        return replay(store, rows)

    monkeypatch.setattr(SqliteStore, "replay", counted)
    benches(left=[7])
    until(lambda: page.figures()["stored"] == 300, "the batches to be stored")
    assert calls == [300]


def test_spooled_batches_rank_in_the_order_in_which_they_came_whatever_the_clock_says(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 10_000_000)
    spool.append([batch_of("m", NOW, "000001,1"), batch_of("m", NOW, "000002,1")], 1_000)
    spool.append([batch_of("m", NOW, "000003,1")], 10)  # the clock stepped back
    first = spool.peek()
    assert first
    spool.remove(first.token, Drained(len(first.rows), 0, 0, 0))
    second = spool.peek()
    assert second
    assert [row.rank for row in first.rows + second.rows] == [1_000, 1_001, 1_002]
    assert [row.inserted_us for row in second.rows] == [10]
    spool.close()
