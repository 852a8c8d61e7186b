"""One receiver, life after life: writers that die anywhere, a database that comes and goes, a machine too.

Ring, page, spool, check, committer and settlement are the server's own, on files in memory; only the threads
are missing. A seed chooses the messages, how far each writer gets, and what has changed for the next one.
When the last one has been allowed to finish, the account must sum up to the unit, every message that no life
refused must be stored or be counted as lost, and where nothing forbids it, ``stored`` is exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reaper import DiedError, Reaper

from ec_server.account.figures import RECEIVER_FIGURES, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_parts import Group
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.message_body import Limits
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.spool import Spool
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from simulation.world import ViolationError
from utilities.errors import RetryableStorageError
from utilities.model import RawMessage, Rejection, RejectReason

_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_WORKER = "receiver-0"


@dataclass(frozen=True, slots=True)
class Life:
    """One writer's life, and what has changed before it."""

    messages: tuple[bytes, ...]
    """That came before or during it."""
    group: int
    """How many messages it takes at once."""
    dies_after: int | None
    """At which step that leaves a trace; None: it is allowed to finish."""
    refused: str
    """A device that the devices file of now does not have."""
    database_is_away: bool
    ring_is_gone: bool
    """The machine was rebooted before this life."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a seed chooses."""

    keeps_marks: bool
    with_spool: bool
    lives: tuple[Life, ...]

    @property
    def is_exact(self) -> bool:
        """Whether nothing forbids to know how many rows were new."""
        changes = any(life.refused or life.ring_is_gone for life in self.lives)
        return self.keeps_marks and not self.with_spool and not changes


def case_of(seed: int, today_s: int) -> Case:
    """``today_s``: a midnight whose day, and the two before it, are within the limits."""
    chance = random.Random(f"recovery {seed}")
    with_spool = chance.random() < 0.4
    sent: list[bytes] = []
    lives = []
    for _ in range(chance.randint(1, 5)):
        messages = tuple(_message(chance, sent, today_s) for _ in range(chance.randint(0, 8)))
        lives.append(
            Life(
                messages,
                chance.choice([1, 2, 4, 8]),
                chance.choice([None, *range(16)]),
                chance.choice(["", "", "", "a"]),
                with_spool and chance.random() < 0.4,
                chance.random() < 0.1,
            )
        )
    last = Life((), 8, None, "", False, False)
    return Case(chance.random() < 0.6 and not with_spool, with_spool, (*lives, last))


def _message(chance: random.Random, sent: list[bytes], today_s: int) -> bytes:
    if sent and chance.random() < 0.15:
        return chance.choice(sent)
    if chance.random() < 0.1:
        return b"no message"
    second = today_s - 86_400 * chance.randrange(3) - 3600
    samples = f"{len(sent):06d},{chance.randrange(9)}"
    sent.append(f"{chance.choice('abb')}|{second}|{samples}||".encode())
    return sent[-1]


class Recovery:
    """Lives through a case."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case, self._folder = case, folder
        self._rows = MemoryStore()
        (folder / "run").mkdir()
        self._page = WorkerPage.create(folder / "run" / f"{_WORKER}.page", RECEIVER_FIGURES)
        self._ring_path = folder / "run" / f"{_WORKER}.ring"
        self._received: list[bytes] = []

    def run(self) -> None:
        for life in self._case.lives:
            self._live(life)
        self._check()

    def _live(self, life: Life) -> None:
        if life.ring_is_gone:
            self._ring_path.unlink(missing_ok=True)
        ring = IntakeRing(self._ring_path, self._page, 64)
        for message in life.messages:
            ring.put(RawMessage(message, "127.0.0.1:5060", 0))
            self._received.append(message)
        ring.unmap()
        page = WorkerPage.open(self._page.path)
        taker = Taker(self._ring_path, page)
        spool = Spool(self._folder / "spool.sqlite", 10**7) if self._case.with_spool else None
        try:
            self._write(life, page, taker, spool)
        except DiedError:
            pass
        finally:
            taker.unmap()
            page.close()
            if spool is not None:
                spool.close()

    def _write(self, life: Life, page: WorkerPage, taker: Taker, spool: Spool | None) -> None:
        reaper = Reaper(life.dies_after)
        writer = Writer(
            WriterSettings(_WORKER, self._folder / "run", Limits()),
            taker,
            page,
            lambda: self._store(reaper, life),
            lambda device, _: self._refusal(life, device),
            Quarantine(self._folder / "quarantine.jsonl", 0),
            lambda _trouble: None,
            spool,
        )
        reaper.watch(page, "apply", "intend")
        reaper.watch(taker, "note_group_end")
        if spool is not None:
            reaper.watch(spool, "append", "remove")
        first = writer._settle_group_before()
        most, before, days_end = first.group_size or life.group, first.settled_before, first.settled_days_end
        while messages := taker.take(most, 0.0):
            batches, rejected = writer._check.check(messages)
            writer._committer.commit(Group(batches, rejected, taker.place, 0.0, before, days_end))
            most, before, days_end = life.group, 0, 0
        if writer._spooling is not None and not life.database_is_away:
            writer._spooling._drain()

    def _store(self, reaper: Reaper, life: Life) -> Store:
        """The rows, as one life sees them."""
        store = _OneLife(self._rows, is_away=life.database_is_away, keeps_marks=self._case.keeps_marks)
        reaper.watch(store, "ingest", "replay")
        return store  # type: ignore[return-value]

    @staticmethod
    def _refusal(life: Life, device_id: str) -> Rejection | None:
        return Rejection(RejectReason.UNKNOWN_DEVICE, "", device_id) if device_id == life.refused else None

    # --- what must hold -------------------------------------------------------------------------------

    def _check(self) -> None:
        figures = self._page.figures()
        rows = {row.batch.values for device in "ab" for row in self._rows.rows(device, 0, 2**40)}
        good = {_values(message) for message in self._received if message != b"no message"}
        if figures["received"] != len(self._received):
            raise ViolationError(f"{figures['received']} counted of {len(self._received)} received")
        if queued(figures) or figures["spooled"]:
            raise ViolationError(f"{queued(figures)} are queued and {figures['spooled']} spooled for ever")
        if rows - good:
            raise ViolationError(f"stored and never sent: {rows - good}")
        refused = {life.refused for life in self._case.lives}
        kept = {_values(m) for m in self._received if m != b"no message" and m[:1].decode() not in refused}
        if len(kept - rows) > figures["lost"]:
            raise ViolationError(f"{len(kept - rows)} are gone, and {figures['lost']} are counted as lost")
        if not any(life.ring_is_gone for life in self._case.lives) and figures["lost"]:
            raise ViolationError(f"{figures['lost']} are counted as lost, and no ring was")
        if self._case.is_exact and (figures["stored"], figures["taken_over"]) != (len(good), 0):
            raise ViolationError(f"{figures['stored']} counted as stored, {len(good)} are")


class _OneLife:
    """The database as one process has it open; see the storage contract."""

    def __init__(self, rows: MemoryStore, *, is_away: bool, keeps_marks: bool) -> None:
        self._rows, self._is_away, self._keeps_marks = rows, is_away, keeps_marks

    def ingest(self, *arguments: Any) -> Any:
        if self._is_away:
            raise RetryableStorageError("away")
        return self._rows.ingest(*arguments)

    def replay(self, *arguments: Any) -> Any:
        return self._rows.replay(*arguments)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        if self._is_away:
            raise RetryableStorageError("away")
        return self._rows.committed_mark(day, writer) if self._keeps_marks else None

    def publish(self, finished: Any) -> int:
        return self._rows.publish(finished)

    def close(self) -> None:
        """The rows stay."""


def _values(message: bytes) -> str:
    return message.decode().split("|")[2]


def run_recovery(seed: int, today_s: int) -> Case:
    """Live through what a seed chooses; a violation says how to replay it, with as few lives as show it."""
    case = case_of(seed, today_s)
    try:
        live(case)
    except ViolationError as violation:
        fewer = shrunk(case)
        listed = "".join(f"\n  {life}" for life in fewer.lives)
        marks = f"marks: {fewer.keeps_marks}, spool: {fewer.with_spool}"
        raise ViolationError(
            f"{violation}\n{marks}{listed}\nreplay with: make simulate SEEDS=1 FIRST={seed} KIND=recovery"
        ) from violation
    return case


def live(case: Case) -> None:
    with TemporaryDirectory(dir=_IN_MEMORY) as folder:
        Recovery(case, Path(folder)).run()


def shrunk(case: Case) -> Case:
    """Without the lives that it does not take."""
    kept = case
    for life in case.lives[:-1]:
        fewer = Case(kept.keeps_marks, kept.with_spool, tuple(one for one in kept.lives if one is not life))
        try:
            live(fewer)
        except ViolationError:
            kept = fewer
    return kept
