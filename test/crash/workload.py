"""A day's work of the storage engine in small: what a seed chooses is done, and noted in the recording.

Three stores on one folder, as in production: the writer's (ingest with marks, published digests), the
synchronization's (rounds against a meter, with repairs and verdicts, retention) and the packer's. The meter
records, loses messages, records minutes again, loses samples and sometimes contradicts itself; files are
closed, checkpointed, damaged and set aside, and removed with their day.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sync_meter import Connection, MemoryMeter, Samples_, text_of

from crash.recorded_disk import Recording
from ec_server.storage.contract import FinishedMinute, Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.coverage import RoundRules
from ec_server.synchronization.frames import Answer, Minutes
from utilities.model import Batch, CommitMark, Digest
from utilities.utc import DAY_S, day_of, ec_date, minute_of

DEVICE = "meter-7"
WRITER = "receiver-0"
FIRST_DAY = 1_772_323_200  # 2026-03-01
SPAN = (FIRST_DAY, FIRST_DAY + 3 * DAY_S)
RULES = RoundRules(grace_s=10.0, back_days=400.0, retention_days=0)

Row = tuple[int, int, int, str, int, int]
"""Second, first and last microsecond, text, insert time, rank."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """A call of ``ingest``: noted before it, and once more with what came of it."""

    day: int
    sequence: int
    batches: tuple[Batch, ...]
    changed: tuple[bool, ...] | None


@dataclass(frozen=True, slots=True)
class Stated:
    """What the meter states of a minute: its seconds' samples; None if it lies."""

    minute: int
    seconds: dict[int, Samples_] | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A day's file is damaged or removed: what was in it need not be stored any more."""

    day: int


@dataclass(frozen=True, slots=True)
class WentBack:
    """A day's file goes back to an older state: what was committed since is gone, not what was stated."""

    day: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A step begins."""

    step: str
    changes_rows: bool
    """Whether it is allowed to."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The step is done, and the stores hold these rows."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The meter holds these samples from now on, and it is this late."""

    seconds: dict[int, Samples_]
    now_s: int


def rows_of(store: Store) -> tuple[Row, ...]:
    """Every row, as the store gives it, packed or not."""
    return tuple(
        (b.second, b.start_us, b.end_us, b.values, inserted_us, rank)
        for b, inserted_us, rank in store.rows(DEVICE, *SPAN)
    )


class Meter(MemoryMeter):
    """Says by ``through`` from where on it records again."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded_again: int | None = None

    def through(self) -> int | None:
        known = [m for m in (self.unfinished, self.recorded_again) if m is not None]
        return min(known, default=None)


class Workload:
    """See the module. ``run`` does what it is told, ``run_any`` what its seed chooses."""

    def __init__(self, folder: Path, recording: Recording, synchronous: str, seed: int) -> None:
        self.folder, self.recording, self.synchronous = folder, recording, synchronous
        self.chance = random.Random(seed)
        self.meter = Meter()
        self.now_s = FIRST_DAY + DAY_S - 240
        self.ledger: dict[int, MemoryStore] = {}
        self.sequence = 0
        self.late: list[Batch] = []
        self.backup: tuple[Path, bytes] | None = None
        self.sent: list[Batch] = []
        self.open_all()
        self.reader = self._open()
        self.sync.note_devices({DEVICE: self.now_s * 1_000_000})

    def open_all(self) -> None:
        self.writer, self.sync, self.packer = (self._open() for _ in range(3))
        self.connection: Connection | None = None

    def _open(self) -> SqliteStore:
        return SqliteStore(self.folder, synchronous=self.synchronous)

    def close_all(self) -> None:
        for store in (self.writer, self.sync, self.packer):
            store.close()
        self.ledger.clear()

    def run_any(self, steps: int) -> None:
        weights = [weight for weight, _ in _STEPS.values()]
        chosen = self.chance.choices(list(_STEPS), weights, k=steps)
        self.run(["send", "send", "round", "send", "pack", *chosen])

    def run(self, steps: Iterable[str]) -> None:
        for name in steps:
            self.recording.note(Begun(name, name not in _KEEPS_ROWS))
            _STEPS[name][1](self)
            self.recording.note(Recorded(copy.deepcopy(self.meter.seconds), self.now_s))
            self.recording.note(Returned(rows_of(self.reader)))
        self.close_all()
        self.reader.close()

    # --- the meter sends ------------------------------------------------------------------------

    def send(self) -> None:
        """Some seconds of the next minute or so; some messages are lost, late or doubled."""
        for _ in range(self.chance.randint(1, 3)):
            self.now_s += self.chance.choice([1, 1, 7, 30])
            self._record(self.now_s)
        self.meter.unfinished = minute_of(self.now_s)

    def _record(self, second: int) -> None:
        samples = {us: f"{self.chance.randint(0, 99)}.5" for us in self.chance.sample(range(0, 10**6, 7), 6)}
        known = self.meter.seconds.get(second, {})
        self.meter.seconds[second] = {**known, **samples}
        self.recording.note(Recorded({second: dict(self.meter.seconds[second])}, self.now_s))
        times = sorted(self.meter.seconds[second])
        pieces = [times[at : at + 3] for at in range(0, len(times), 3)]
        batches = [
            batch_of(DEVICE, second, text_of({us: self.meter.seconds[second][us] for us in piece}))
            for piece in pieces
        ]
        arrived = [b for b in batches if self.chance.random() < 0.8]
        self.late += [b for b in batches if b not in arrived and self.chance.random() < 0.5]
        self.ingest(arrived + arrived[: self.chance.randint(0, 1)])

    def ingest(self, batches: Sequence[Batch]) -> None:
        if not batches:
            return
        self.sequence += 1
        day = day_of(batches[0].second)
        self.recording.note(Ingested(day, self.sequence, tuple(batches), None))
        result = self.writer.ingest(batches, CommitMark(WRITER, self.sequence))
        self.recording.note(Ingested(day, self.sequence, tuple(batches), result.changed))
        self.sent += batches
        self.ledger |= {minute: MemoryStore() for _, minute in result.opened}
        for batch in batches:
            if (own := self.ledger.get(minute_of(batch.second))) is not None:
                own.ingest([batch])

    def arrive_late(self) -> None:
        if self.late:
            self.ingest([self.late.pop(self.chance.randrange(len(self.late)))])

    def send_again(self) -> None:
        if self.sent:
            self.ingest([self.chance.choice(self.sent)])

    def publish(self) -> None:
        """Digests of minutes that the writer saw from beginning to end."""
        over = [minute for minute in self.ledger if minute + 60 <= self.now_s]
        finished = [
            FinishedMinute(DEVICE, m, tuple(self.ledger.pop(m).second_digests(DEVICE, m)), True) for m in over
        ]
        self.writer.publish(finished)

    # --- the meter changes its mind -------------------------------------------------------------

    def record_again(self) -> None:
        """Samples of a minute that was stated already, sent only in part; the meter says so."""
        if self.meter.seconds:
            second = self.chance.choice(sorted(self.meter.seconds))
            self._record_again(minute_of(second))
            self._record(second)

    def lose_samples(self) -> None:
        if self.meter.seconds:
            second = self.chance.choice(sorted(self.meter.seconds))
            self._record_again(minute_of(second))
            del self.meter.seconds[second]

    def _record_again(self, minute: int) -> None:
        self.meter.recorded_again = min(minute, self.meter.recorded_again or minute)

    # --- rounds -----------------------------------------------------------------------------------

    def round(self) -> None:
        """A minute later, so that what was sent so far can be proven."""
        self.now_s += 60
        self.meter.unfinished = minute_of(self.now_s)
        if self.connection is None or self.chance.random() < 0.3:
            self.connection = Connection(self.sync, self.meter, RULES)
        lies = self.chance.random() < 0.15

        def heard(answer: Answer) -> Answer:
            if not isinstance(answer, Minutes):
                return answer
            told = self._lie(answer) if lies else answer
            for minute, digest in told.digests:
                is_lie = (minute, digest) not in answer.digests
                seconds = {s: dict(v) for s, v in self.meter.seconds.items() if minute_of(s) == minute}
                if answer.through is None or minute < answer.through:
                    self.recording.note(Stated(minute, None if is_lie else seconds))
            return told

        _, crossed = self.connection.round(self.now_s + 75, distort=heard)
        if crossed.requests:
            self.meter.recorded_again = None

    def _lie(self, answer: Minutes) -> Minutes:
        told = tuple(
            (minute, Digest(digest.count, "0" * 32) if self.chance.random() < 0.5 else digest)
            for minute, digest in answer.digests
        )
        return replace(answer, digests=told)

    # --- files ------------------------------------------------------------------------------------

    def pack(self) -> None:
        for device_id, minute in self.packer.unpacked_minutes(self.now_s + 60, self.chance.randint(1, 3)):
            self.packer.pack_minute(device_id, minute)

    def return_space(self) -> None:
        self.packer.return_space(self.now_s + 2 * DAY_S)

    def reopen(self) -> None:
        name = self.chance.choice(["writer", "sync", "packer"])
        getattr(self, name).close()
        setattr(self, name, self._open())
        self.connection = None if name == "sync" else self.connection
        if name == "writer":
            self.ledger.clear()

    def restart(self) -> None:
        self.close_all()
        self.open_all()

    def damage(self) -> None:
        """A day's file becomes unreadable; it is set aside when it is next used."""
        day = day_of(self.now_s)
        path = self.folder / f"ec-{ec_date(day)}.sqlite"
        self.recording.note(Lost(day))
        if path.exists() and path.stat().st_size:
            self._while_closed(lambda: self.recording.written_by_hand(path, 0, b"\xff" * 4096))
        self.sent = [b for b in self.sent if day_of(b.second) != day]
        self.send()

    def back_up(self) -> None:
        """Copy the day's file while nobody has it open."""
        self.backed_up_day = day_of(self.now_s)
        path = self.folder / f"ec-{ec_date(self.backed_up_day)}.sqlite"
        if path.exists():
            self._while_closed(lambda: setattr(self, "backup", (path, path.read_bytes())))

    def restore(self) -> None:
        """Put the copy back; the day goes back to what it was then."""
        if self.backup is not None and self.backup[0].exists():
            path, content = self.backup
            self.recording.note(WentBack(self.backed_up_day))
            self._while_closed(lambda: self.recording.put_back(path, content))
            self.sent.clear()

    def _while_closed(self, act: Callable[[], object]) -> None:
        self.reader.close()
        self.close_all()
        act()
        self.open_all()
        self.reader = self._open()

    def remove(self) -> None:
        """Retention, once the second day has come."""
        day = day_of(self.now_s)
        self.recording.note(Lost(day - DAY_S))
        self.sync.remove_before(day)
        self.sent = [b for b in self.sent if b.second >= day]
        self.late = [b for b in self.late if b.second >= day]
        self.meter.seconds = {s: v for s, v in self.meter.seconds.items() if s >= day}


_KEEPS_ROWS = frozenset({"publish", "lose samples", "pack", "return space", "reopen", "restart", "back up"})
_STEPS: dict[str, tuple[float, Callable[[Workload], None]]] = {
    "send": (6, Workload.send),
    "arrive late": (2, Workload.arrive_late),
    "send again": (1, Workload.send_again),
    "publish": (2, Workload.publish),
    "record again": (2, Workload.record_again),
    "lose samples": (0.5, Workload.lose_samples),
    "round": (5, Workload.round),
    "pack": (3, Workload.pack),
    "return space": (0.5, Workload.return_space),
    "reopen": (2, Workload.reopen),
    "restart": (0.7, Workload.restart),
    "back up": (0.5, Workload.back_up),
    "restore": (0.5, Workload.restore),
    "damage": (0.3, Workload.damage),
    "remove": (0.3, Workload.remove),
}
