"""A process may die at any point: nothing is lost or stored twice, and the account stays exact to the unit.

A reaper is called before and after every step that leaves a trace (in the ring, on the page, in the
database, in the spool). A run with it that dies at its first call is followed by one that dies at the
second, and so on until nothing is left to die at; each time another writer takes over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from contract.test_writer import NOW, body, until
from reaper import DiedError, Reaper

from ec_server.account.figures import RECEIVER_FIGURES, REJECTED, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.message_body import Limits
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.spool import Spool
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.storage.contract import Store
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import RetryableStorageError
from utilities.model import RawMessage, Rejection, RejectReason
from utilities.utc import day_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""No disk to wait for: the deaths are of processes, not of machines."""
TODAY = day_of(NOW)
RECEIVED = {
    "one day": [body("m", NOW, us) for us in range(0, 4000, 1000)],
    "a duplicate and a rejected one": [
        body("m", NOW, 0),
        body("m", NOW, 0),
        "no message",
        body("m", NOW, 1000),
    ],
    "two days": [
        body("m", TODAY, 0),
        body("m", TODAY - 1, 0),
        body("m", TODAY - 2, 5),
        body("m", TODAY - 1, 9),
    ],
    "two days and a rejected one": [body("m", TODAY, 0), "no message", body("m", TODAY - 1, 0)],
    "rejected ones alone": ["no message", "nor this"],
}


class Machine:
    """One receiver's files, and the writers that come and go on them."""

    def __init__(self, folder: Path, *, keeps_marks: bool = True, with_spool: bool = False) -> None:
        self.folder = folder
        self.keeps_marks, self.with_spool = keeps_marks, with_spool
        self.database_is_away = with_spool
        self.refused = ""
        (folder / "run").mkdir()
        self.page = WorkerPage.create(folder / "run" / "receiver-0.page", RECEIVER_FIGURES)
        self.ring = IntakeRing(folder / "run" / "receiver-0.ring", self.page, 100)

    def receive(self, bodies: list[str]) -> None:
        for text in bodies:
            assert self.ring.put(RawMessage(text.encode(), "127.0.0.1:5060", 0))

    def run_writer(self, reaper: Reaper) -> None:
        """Until everything is settled and no spool waits, or it died."""
        page = WorkerPage.open(self.page.path)
        taker = Taker(self.ring.path, page)
        spool = Spool(self.folder / "spool" / "receiver-0.sqlite", 10**7) if self.with_spool else None
        writer = Writer(
            WriterSettings("receiver-0", self.folder / "run", Limits(), commit_ms=1),
            taker,
            page,
            lambda: self._store(reaper),
            self._admits,
            Quarantine(self.folder / "quarantine.jsonl", 0),
            lambda _trouble: None,
            spool,
        )
        reaper.watch(page, "apply", "intend")
        reaper.watch(taker, "note_group_end")
        if spool is not None:
            reaper.watch(spool, "append", "remove")
        thread = threading.Thread(target=writer.run)
        thread.start()
        until(lambda: reaper.has_come or not thread.is_alive() or self._is_done(), "the writer")
        writer.abandon()
        self.ring.close()  # so that it does not wait for more
        thread.join(10)
        assert not thread.is_alive()
        self.ring = IntakeRing(self.ring.path, self.page, 100)

    def _admits(self, device_id: str, _message: RawMessage) -> Rejection | None:
        return Rejection(RejectReason.UNKNOWN_DEVICE, "", device_id) if device_id == self.refused else None

    def _is_done(self) -> bool:
        figures = self.page.figures()
        if figures["spooled"]:
            self.database_is_away = False
        return queued(figures) == figures["spooled"] == 0

    def _store(self, reaper: Reaper) -> Store:
        store = SqliteStore(self.folder)
        reaper.watch(store, "replay")
        ingest = store.ingest

        def ingest_or_not(*arguments: object) -> object:
            if self.database_is_away:
                raise RetryableStorageError("away")
            return ingest(*arguments)  # type: ignore[arg-type]

        store.ingest = ingest_or_not  # type: ignore[assignment,method-assign]
        reaper.watch(store, "ingest")
        if not self.keeps_marks:
            store.committed_mark = lambda _day, _writer: None  # type: ignore[method-assign]
        return store

    def rows(self) -> int:
        with SqliteStore(self.folder, read_only=True) as store:
            return len(list(store.rows("m", TODAY - 3 * 86_400, NOW + 1)))


def check(machine: Machine, bodies: list[str], *, is_exact: bool) -> None:
    """Everything that was received is accounted for, and stored once."""
    figures = machine.page.figures()
    good = [text for text in bodies if text.startswith("m|")]
    rejected = sum(figures[name] for name in REJECTED.values())
    assert (figures["received"], rejected) == (len(bodies), len(bodies) - len(good))
    assert figures["stored"] + figures["duplicate"] == len(good)
    assert queued(figures) == figures["spooled"] == figures["lost"] == figures["taken_over"] == 0
    if good:
        assert machine.rows() == len(set(good))
    if is_exact:
        assert figures["stored"] == len(set(good))


def every_death(bodies: list[str], *, is_exact: bool, **kind: bool) -> Iterator[int]:
    """Each point at which the first writer can die, with a check of what the next one makes of it."""
    at = 0
    while True:
        with TemporaryDirectory(dir=IN_MEMORY) as folder:
            machine = Machine(Path(folder), **kind)
            machine.receive(bodies)
            reaper = Reaper(at)
            machine.run_writer(reaper)
            machine.receive(more := [body("m", NOW, 900_000)])
            machine.run_writer(Reaper(None))
            check(machine, bodies + more, is_exact=is_exact)
        if not reaper.has_come:
            return
        yield at
        at += 1


@pytest.mark.parametrize("bodies", RECEIVED.values(), ids=list(RECEIVED))
@pytest.mark.parametrize("keeps_marks", [True, False], ids=["marks as SQLite", "no marks as Cassandra"])
def test_a_writer_may_die_at_every_point(bodies: list[str], keeps_marks: bool) -> None:
    points = list(every_death(bodies, is_exact=keeps_marks, keeps_marks=keeps_marks))
    assert len(points) >= 4  # note, account


@pytest.mark.parametrize("name", ["one day", "two days and a rejected one"])
def test_a_writer_may_die_at_every_point_while_the_spool_is_in_use(name: str) -> None:
    points = list(every_death(RECEIVED[name], is_exact=False, keeps_marks=False, with_spool=True))
    assert len(points) >= 10


@pytest.mark.parametrize("keeps_marks", [True, False], ids=["marks as SQLite", "no marks as Cassandra"])
def test_the_writer_that_takes_over_may_die_too(tmp_path: Path, keeps_marks: bool) -> None:
    bodies = RECEIVED["two days and a rejected one"]
    for first in range(1, 16, 4):
        for second in range(0, 9, 4):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            machine = Machine(folder, keeps_marks=keeps_marks)
            machine.receive(bodies)
            machine.run_writer(Reaper(first))
            machine.run_writer(Reaper(second))
            machine.run_writer(Reaper(None))
            check(machine, bodies, is_exact=keeps_marks)


@pytest.mark.parametrize("gone", ["early", "late"])
def test_what_was_settled_before_counts_once_though_the_devices_file_changed_since(
    tmp_path: Path, gone: str
) -> None:
    machine = Machine(tmp_path)
    machine.receive([body("m", TODAY - 1, 0), body("early", TODAY - 1, 0), body("m", TODAY, 0)])
    machine.receive([body("late", TODAY, 0)])
    machine.run_writer(Reaper(9))  # after the account's step for the first day
    assert machine.page.figures()["stored"] == 2
    machine.refused = gone
    machine.run_writer(Reaper(None))
    figures = machine.page.figures()
    assert (figures["received"], queued(figures)) == (4, 0)
    assert machine.rows() == 2, "what was not settled is stored, whatever the count says"


# --- the SIP process --------------------------------------------------------------------------


class DyingMap:
    """The ring's mapped file for a process that dies at its ``at``-th write."""

    def __init__(self, mapped: object, at: int) -> None:
        self._mapped = mapped
        self._left = at

    def __setitem__(self, place: slice, data: bytes) -> None:
        self._left -= 1
        if self._left < 0:
            raise DiedError
        self._mapped[place] = data  # type: ignore[index]

    def __getattr__(self, name: str) -> object:
        return getattr(self._mapped, name)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("counted", [True, False])
def test_a_sip_process_may_die_at_every_write_and_only_what_is_counted_counts(
    tmp_path: Path, at: int, counted: bool
) -> None:
    """``counted``: it dies within a record; not: after the record, before it is counted."""
    machine = Machine(tmp_path)
    bodies = [body("m", NOW, us) for us in range(0, 8000, 1000)]
    if counted:
        machine.ring._map = DyingMap(machine.ring._map, at)  # type: ignore[assignment]
    else:
        count = machine.page.count_received
        left = iter(range(at))

        def count_or_die() -> None:
            if next(left, None) is None:
                raise DiedError
            count()

        machine.page.count_received = count_or_die  # type: ignore[method-assign]
    with pytest.raises(DiedError):
        machine.receive(bodies)
    machine.page = WorkerPage.open(machine.page.path)
    assert machine.page.figures()["received"] == at
    machine.ring = IntakeRing(machine.ring.path, machine.page, 100)
    machine.receive(bodies[at:])  # the device sends again what was not answered
    machine.run_writer(Reaper(None))
    check(machine, bodies, is_exact=True)
