"""The writer stores, rejects or holds what it takes, and its account sums to the unit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw
import pytest
from contract.store_suite import batch

from ec_server.account.figures import RECEIVER_FIGURES, REJECTED, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_settlement import settle
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.message_body import Limits
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.spool import Spool
from ec_server.ingest.spooling import LeftSpool
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.storage.contract import Store
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import RetryableStorageError
from utilities.model import CommitMark, RawMessage, Rejection, RejectReason
from utilities.utc import day_of

NOW = int(time.time())


def until(condition: Callable[[], object], what: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
        time.sleep(0.005)


class Bench:
    """A writer with its queue, page and database, as a receiver has them."""

    def __init__(
        self,
        folder: Path,
        open_store: Callable[[], Store] | None = None,
        spool: Spool | None = None,
        left: Sequence[LeftSpool] = (),
    ) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.run_folder.mkdir(exist_ok=True)
        self.page = WorkerPage.create(self.run_folder / "receiver-0.page", RECEIVER_FIGURES)
        self.ring = IntakeRing(self.run_folder / "receiver-0.ring", self.page, 2000)
        self.taker = Taker(self.ring.path, self.page)
        self.troubles: list[str] = []
        self.writer = Writer(
            WriterSettings("receiver-0", self.run_folder, Limits()),
            self.taker,
            self.page,
            open_store or (lambda: SqliteStore(folder)),
            lambda device_id, message: (
                Rejection(RejectReason.UNKNOWN_DEVICE, "not in the file", device_id)
                if device_id == "stranger"
                else None
            ),
            Quarantine(folder / "quarantine.jsonl", 1_000_000),
            self.troubles.append,
            spool,
            left,
        )
        self.thread = threading.Thread(target=self.writer.run)
        self.thread.start()

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.ring.put(RawMessage(body.encode(), "127.0.0.1:5060", time.time_ns() // 1000))

    def settled(self) -> dict[str, int]:
        until(lambda: queued(self.page.figures()) == 0, "everything to be settled")
        return self.page.figures()

    def end(self) -> None:
        self.ring.close()
        self.writer.abandon()
        self.thread.join(10)


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(open_store: Callable[[], Store] | None = None) -> Bench:
        made.append(Bench(tmp_path, open_store))
        return made[-1]

    yield make
    for bench in made:
        bench.end()


def body(device: str, second: int, us: int, values: int = 3) -> str:
    samples = ";".join(f"{us + i:06d},{i}.5" for i in range(values))
    return f"{device}|{second}|{samples}||"


def test_every_message_is_stored_rejected_or_a_duplicate(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.send(*[body("m", NOW, us) for us in range(0, 5000, 1000)], body("m", NOW, 0))
    bench.send("m|x|000000,1||", "m|1|000000,1", body("stranger", NOW, 0), body("m", 5, 0))
    figures = bench.settled()
    assert (figures["stored"], figures["duplicate"], figures["samples_stored"]) == (5, 1, 15)
    assert figures["rejected_bad_time"] == 1
    assert figures["rejected_no_end_mark"] == 1
    assert figures["rejected_unknown_device"] == 1
    assert figures["rejected_time_too_far_back"] == figures["quarantined"] == 1
    with SqliteStore(bench.folder, read_only=True) as store:
        assert len(list(store.rows("m", NOW, NOW + 1))) == 5


def test_light_load_is_committed_within_a_tenth_of_a_second(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()  # the file is there now
    delays = []
    for us in range(1000, 11_000, 1000):
        began = time.monotonic()
        bench.send(body("m", NOW, us))
        bench.settled()
        delays.append(time.monotonic() - began)
    assert sorted(delays)[len(delays) // 2] < 0.1


def test_one_call_may_bring_batches_of_two_days(benches: Callable[..., Bench]) -> None:
    bench = benches()
    midnight = day_of(NOW)
    bench.send(body("m", midnight, 0), body("m", midnight - 1, 0), body("m", midnight, 1000))
    bench.settled()
    assert len(list(bench.folder.glob("ec-*.sqlite"))) == 2


def test_the_digests_of_a_minute_are_published_when_the_device_goes_on(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    minute = NOW - NOW % 60 - 600
    for second in range(minute, minute + 64):
        bench.send(*[body("m", second, us) for us in range(0, 10_000, 1000)])
    bench.settled()
    with SqliteStore(tmp_path, read_only=True) as store:
        until(lambda: store.minutes_without_digest(minute + 61) == [], "the minute digest")
        (record,) = store.minutes("m", minute, minute + 60)
        assert record.digest is not None
        assert record.digest.count == 60 * 10 * 3


def test_a_locked_database_is_waited_for_and_nothing_is_lost(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0))
    bench.settled()
    day_file = next(tmp_path.glob("ec-*.sqlite"))
    blocker = apsw.Connection(str(day_file))
    blocker.execute("BEGIN EXCLUSIVE")
    bench.send(body("m", NOW, 1000), body("m", NOW, 2000))
    until(lambda: any("locked" in t or "busy" in t for t in bench.troubles), "the trouble to be told")
    assert queued(bench.page.figures()) == 2
    blocker.execute("COMMIT")
    blocker.close()
    assert bench.settled()["stored"] == 3
    until(lambda: bench.troubles[-1] == "", "the trouble to be over")


def test_without_free_space_nothing_is_taken_until_there_is(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    stores: list[SqliteStore] = []

    def open_store() -> Store:
        stores.append(SqliteStore(tmp_path, min_free_bytes=2**62))
        return stores[-1]

    bench = benches(open_store)
    bench.send(body("m", NOW, 0))
    until(lambda: any("min_free_mb" in t for t in bench.troubles), "the trouble to be told")
    assert queued(bench.page.figures()) == 1
    stores[-1]._folder._min_free_bytes = 0  # room was made
    assert bench.settled()["stored"] == 1


def test_the_commit_mark_agrees_with_the_account(benches: Callable[..., Bench], tmp_path: Path) -> None:
    bench = benches()
    bench.send(body("m", NOW, 0), body("m", NOW, 0))
    figures = bench.settled()
    day, sequence = bench.page.intent()
    with SqliteStore(tmp_path, read_only=True) as store:
        assert store.committed_mark(day, "receiver-0") == (sequence, 1, 1)
    assert figures["settled_sequence"] == sequence


def test_live_figures_name_the_devices_and_their_rate(benches: Callable[..., Bench]) -> None:
    bench = benches()
    path = bench.run_folder / "receiver-0.devices.json"
    bench.send(body("m", NOW, 0, 44))
    until(lambda: path.exists() and "m" in json.loads(path.read_text())["devices"], "the figures")
    assert json.loads(path.read_text())["devices"]["m"]["samples_per_second"] > 0
    with SqliteStore(bench.folder, read_only=True) as store:
        until(lambda: [d.device_id for d in store.devices()] == ["m"], "the device to be on record")


def test_what_is_in_the_queue_is_committed_before_the_end(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.send(*[body("m", NOW, us) for us in range(0, 900_000, 1000)])
    bench.ring.close()
    bench.thread.join(10)
    assert not bench.thread.is_alive()
    assert bench.page.figures()["stored"] == 900


def test_rows_are_those_of_the_messages(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.send(f"m|{NOW}|000001,1;000002,-2e0||\r\n")
    bench.settled()
    with SqliteStore(bench.folder, read_only=True) as store:
        (row,) = [found.batch for found in store.rows("m", NOW, NOW + 1)]
    assert row == batch("m", NOW, {1: "1", 2: "-2e0"})


def test_a_group_is_not_settled_before_the_one_it_came_after(tmp_path: Path) -> None:
    def away() -> Store:
        raise RetryableStorageError("away")

    bench = Bench(tmp_path, away)
    bench.send(body("m", NOW, 0))
    until(lambda: bench.troubles, "the first group to be refused")
    bench.send("not a message")
    until(lambda: bench.taker.place.messages == 2, "the second group to be taken")
    bench.end()
    assert queued(bench.page.figures()) == 2
    again = Bench(tmp_path)
    figures = again.settled()
    again.end()
    assert (figures["stored"], sum(figures[name] for name in REJECTED.values())) == (1, 1)


def test_a_writer_that_died_after_its_commit_leaves_an_exact_account_though_more_came_since(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    bench.end()
    ring = IntakeRing(bench.ring.path, bench.page, 2000)
    bodies = [body("m", NOW, 0), "not a message", body("m", NOW, 1000)]
    for text in bodies:
        ring.put(RawMessage(text.encode(), "", 0))
    taker = Taker(ring.path, bench.page)
    taker.begin(settle(taker.evidence()))
    taker.take(10, 1.0)
    taker.note_group_end(taker.place)
    bench.page.intend(day_of(NOW), bench.page.intent()[1] + 1)
    with SqliteStore(tmp_path) as store:  # it commits, and dies before the account says so
        rows = [batch("m", NOW, {us: "0.5", us + 1: "1.5", us + 2: "2.5"}) for us in (0, 1000)]
        store.ingest(rows, CommitMark("receiver-0", bench.page.intent()[1]))
    for us in range(2000, 9000, 1000):
        ring.put(RawMessage(body("m", NOW, us).encode(), "", 0))
    again = benches()
    until(lambda: again.page.figures()["stored"] >= 9, "the rest to be stored")
    figures = again.settled()
    assert (figures["received"], figures["stored"], figures["duplicate"], figures["lost"]) == (10, 9, 0, 0)
    assert queued(figures) == 0
