"""While the database is away batches wait in the spool; afterwards all of them are in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from contract.test_writer import NOW, Bench, body, until

from ec_server.account.figures import RECEIVER_FIGURES, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.spool import Spool, adopt
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import RawMessage


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

    def make(limit_bytes: int = 10_000_000) -> Bench:
        spool = Spool(tmp_path / "spool" / "receiver-0.sqlite", limit_bytes)
        made.append(Bench(tmp_path, spool=spool))
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
    taker.take(10, 1.0)
    taker.note_group(taker.taken)
    spool = Spool(tmp_path / "spool" / "receiver-0.sqlite", 10_000_000)
    spool.append(
        [batch_of("m", NOW, f"{us:06d},0.5;{us + 1:06d},1.5;{us + 2:06d},2.5") for us in (1000, 2000)], 1
    )
    spool.close()
    again = benches()
    until(lambda: again.page.figures()["stored"] == 3, "the batches to be stored")
    figures = again.settled()
    assert (figures["received"], figures["duplicate"], figures["taken_over"]) == (3, 0, 0)


def test_the_spool_of_a_worker_that_is_no_more_is_taken_over(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    page = WorkerPage.create(tmp_path / "run" / "receiver-7.page", RECEIVER_FIGURES)
    left = Spool(tmp_path / "spool" / "receiver-7.sqlite", 10_000_000)
    for us in (1000, 2000, 3000):
        left.append([batch_of("m", NOW, f"{us:06d},1")], us)
    left.close()
    for _ in range(3):
        page.count_received()
    page.apply({"spooled": 3})
    own = Spool(tmp_path / "spool" / "receiver-0.sqlite", 10_000_000)
    assert adopt(tmp_path / "spool" / "receiver-7.sqlite", own, page.path) == 3
    own.close()
    mine = WorkerPage.create(tmp_path / "run" / "receiver-0.page", RECEIVER_FIGURES)
    mine.apply({"spooled": 3, "taken_over": 3})
    assert not (tmp_path / "spool" / "receiver-7.sqlite").exists()
    bench = benches()
    until(lambda: bench.page.figures()["stored"] == 3, "the batches to be stored")
    both = [bench.page.figures(), page.figures()]
    assert sum(f["received"] for f in both) == 3
    assert [queued(f) for f in both] == [0, 0]
    assert rows_in(tmp_path) == 3
