"""A server, its meters and the network between them; what goes wrong; and what must hold all the same.

* Safety, after each round and at the end: a minute is proven only if every sample that the meter last stated
  of it is stored with its value. Nothing is stored that was never sent, and nothing that was stored is gone,
  but for what was deleted or put back by hand.
* Liveness: once the faults have ended, ROUNDS rounds of each connected meter later every minute is settled
  and every sample that the meter has is stored and proven.
"""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sync_meter import Samples_, batch, stored_samples

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.frames import Answer, Minutes
from simulation.link import Link
from simulation.plan import START_S, TAKES_TIME, Fault, Setting
from simulation.sim_meter import SimMeter
from simulation.sim_server import RULES, SimServer
from simulation.timeline import Timeline
from utilities.model import MinuteState
from utilities.utc import DAY_S, day_of, ec_date, minute_of

ROUNDS = 3
_FAR = (START_S - 10**6, START_S + 400 * DAY_S)
_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class ViolationError(AssertionError):
    """Something that must hold does not."""


class World:
    """See the module. ``run`` raises ViolationError."""

    def __init__(self, setting: Setting, faults: Sequence[Fault]) -> None:
        self.setting, self.faults = setting, faults
        self.chance = random.Random(f"world {setting.seed}")
        self.began_s = float(START_S)
        self.timeline = Timeline(self.began_s)
        self.meters = [self._meter(number) for number in range(setting.meters)]
        self.by_device = {meter.device_id: meter for meter in self.meters}
        self.loss = dict.fromkeys(self.by_device, 0.0)
        self.delay_s = dict.fromkeys(self.by_device, 0.0)
        self.off_s = dict.fromkeys(self.by_device, 0)
        self.is_silent = dict.fromkeys(self.by_device, False)
        self.stated: dict[tuple[str, int], dict[int, Samples_] | None] = {}
        self.ingested: set[tuple[str, int, int]] = set()
        self.is_recording = True
        self.last_arrival_s = 0.0
        """When the last message under way arrives."""
        self.folder: Path | None = None
        self._memory = MemoryStore()
        self._saved: object = None
        self.server = SimServer(
            self.timeline,
            random.Random(f"server {setting.seed}"),
            self._open_store,
            {meter.device_id: meter.key for meter in self.meters},
            setting.interval_s,
            setting.lasts_s / 40,
        )
        self.server.on_answer = self._note_statement
        self.server.on_round = self._check_proof

    def _meter(self, number: int) -> SimMeter:
        device_id = f"meter-{number}"
        key = bytes(32) if self.setting.has_key[number] else b""
        chance = random.Random(f"{device_id} {self.setting.seed}")
        return SimMeter(device_id, key, says_through=self.setting.says_through[number], chance=chance)

    def _open_store(self) -> Store:
        if self.setting.engine == "memory":
            return self._memory
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_IN_MEMORY))
        return SqliteStore(self.folder, synchronous="off")

    # --- the course of things -------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.server.store.close()
            if self.folder is not None:
                shutil.rmtree(self.folder)

    def _run(self) -> None:
        self.server.store.note_devices(dict.fromkeys(self.by_device, START_S * 1_000_000))
        for meter in self.meters:
            self._record(meter)
            self._reconnect(meter)
        self.timeline.after(self.setting.lasts_s / 3, self._save)
        for fault in self.faults:
            self.timeline.after(fault.at_s, lambda f=fault: self._begin(f))  # type: ignore[misc]
        self.timeline.run_until(START_S + self.setting.lasts_s)
        self._end_faults()
        furthest = max([self.timeline.now_s, *(s for meter in self.meters for s in meter.seconds)])
        settled_s = max(furthest + 60 + RULES.grace_s, self.last_arrival_s)
        self.timeline.run_until(settled_s)
        self._let_rounds_pass(settled_s)
        for meter in self.meters:
            self._check_proof(meter.device_id)
            self._check_liveness(meter)
            self._check_samples(meter)

    def _let_rounds_pass(self, since_s: float) -> None:
        """Until each meter had ROUNDS rounds that began after a moment; it must not take much longer."""
        deadline_s = since_s + (ROUNDS + 1) * self.setting.interval_s + 10 * self.server.tick_s + 600
        step_s = max(5.0, self.setting.interval_s / 4)
        while not all(self._rounds_since(meter, since_s) >= ROUNDS for meter in self.meters):
            if self.timeline.now_s > deadline_s:
                raise ViolationError("rounds do not end although nothing fails any more")
            self.timeline.run_until(self.timeline.now_s + step_s)

    def _rounds_since(self, meter: SimMeter, since_s: float) -> int:
        connection = self.server.connections.get(meter.device_id)
        if connection is None:
            return 0
        return sum(begun >= since_s for begun in connection.rounds)

    # --- meters -----------------------------------------------------------------------------------------

    def _record(self, meter: SimMeter) -> None:
        if not self.is_recording:
            return
        if not self.is_silent[meter.device_id]:
            second = int(self.timeline.now_s) + self.off_s[meter.device_id]
            self._send(meter, second, meter.record(second, is_recording=True))
        wait_s = self.setting.rhythm_s * meter.chance.uniform(0.2, 1.8)
        self.timeline.after(wait_s, lambda: self._record(meter))

    def _send(self, meter: SimMeter, second: int, samples: Samples_) -> None:
        """As messages: some are lost, some come late, some twice."""
        for us, value in samples.items():
            times = (
                0 if meter.chance.random() < self.loss[meter.device_id] else meter.chance.choice([1, 1, 1, 2])
            )
            for _ in range(times):
                delay_s = meter.chance.uniform(0, 1) + self.delay_s[meter.device_id] * meter.chance.random()
                self.last_arrival_s = max(self.last_arrival_s, self.timeline.now_s + delay_s)
                self.timeline.after(delay_s, lambda s={us: value}: self._ingest(meter.device_id, second, s))  # type: ignore[misc]

    def _ingest(self, device_id: str, second: int, samples: Samples_) -> None:
        if not self.server.database_is_away:  # a message that nobody takes is lost, for this purpose
            self.server.store.ingest([batch(device_id, second, samples)])
            self.ingested |= {(device_id, second, us) for us in samples}

    def _reconnect(self, meter: SimMeter) -> None:
        """Whenever it is not connected, after a while."""
        if not meter.is_connected:
            link = Link(self.timeline, meter.chance)
            self.server.accept(link)
            meter.connect(link)
        wait_s = max(30.0, self.setting.lasts_s / 100)
        self.timeline.after(wait_s * meter.chance.uniform(0.2, 1.0), lambda: self._reconnect(meter))

    def _note_statement(self, device_id: str, answer: Answer) -> None:
        """What an answer that has arrived states."""
        if isinstance(answer, Minutes):
            for minute, seconds in self.by_device[device_id].statements.pop(answer.id, {}).items():
                self.stated[device_id, minute] = seconds

    # --- faults -------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        meter = self.meters[fault.meter]
        _BEGIN[fault.kind](self, fault, meter)
        if fault.kind in TAKES_TIME:
            self.timeline.after(fault.for_s, lambda: _END[fault.kind](self, meter))

    def _end_faults(self) -> None:
        self.is_recording = False
        for meter in self.meters:
            for end in _END.values():
                end(self, meter)
            meter.unfinished = None

    def _cut(self, _fault: Fault, meter: SimMeter) -> None:
        if meter.link is not None:
            meter.link.cut()

    def _cut_half_open(self, _fault: Fault, meter: SimMeter) -> None:
        if meter.link is not None:
            meter.link.cut(server_is_told=False)

    def _lose_samples(self, fault: Fault, meter: SimMeter) -> None:
        chance = random.Random(f"{fault.number} {self.setting.seed}")
        for second in sorted(meter.seconds):
            if chance.random() < 0.2:
                meter.change(second, {})

    def _change_samples(self, fault: Fault, meter: SimMeter) -> None:
        """It records some seconds again, as after a step of its clock; few messages arrive."""
        chance = random.Random(f"{fault.number} {self.setting.seed}")
        for second in chance.sample(sorted(meter.seconds), min(3, len(meter.seconds))):
            samples = {chance.randrange(10**6): "7.25", **meter.seconds[second]}
            meter.change(second, samples)
            if chance.random() < 0.3:
                self._send(meter, second, samples)

    def _restart(self, _fault: Fault, _meter: SimMeter) -> None:
        for meter in self.meters:
            if meter.link is not None:
                meter.link.cut()
        self.server.restart()

    def _mount(self, meter: SimMeter) -> None:
        """A meter that has its store back connects again."""
        if meter.is_away:
            meter.is_away = False
            if meter.link is not None:
                meter.link.cut()

    def _mend(self, meter: SimMeter) -> None:
        """A meter that lied becomes honest, and so connects again."""
        if meter.lies:
            meter.lies = False
            if meter.link is not None:
                meter.link.cut()

    def _save(self) -> None:
        """What "day goes back" goes back to."""
        if self.folder is None:
            self._saved = copy.deepcopy((self._memory._rows, self._memory._replaced))
        else:
            self._restart(self.faults[0] if self.faults else None, self.meters[0])  # type: ignore[arg-type]
            path = self._day_path()
            self._saved = (path, path.read_bytes()) if path.exists() else None

    def _day_path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"ec-{ec_date(day_of(START_S))}.sqlite"

    def _go_back(self, _fault: Fault, meter: SimMeter) -> None:
        """A day's data is put back to an older state while the server is down; proof goes with it."""
        if self._saved is None:
            return
        self.ingested.clear()
        if self.folder is None:
            day, (rows, replaced) = day_of(START_S), copy.deepcopy(self._saved)  # type: ignore[misc]
            for device_id in self.by_device:
                own = self._memory._rows.setdefault(device_id, {})
                for second in [s for s in own if day_of(s) == day]:
                    del own[second]
                own |= {s: of for s, of in rows.get(device_id, {}).items() if day_of(s) == day}
                verdicts = self._memory._verdicts.get(device_id, {})
                for minute in [m for m in verdicts if day_of(m) == day]:
                    del verdicts[minute]
            self._memory._replaced = replaced
        self._restart(_fault, meter)
        if self.folder is not None:
            path, content = self._saved  # type: ignore[misc]
            self.server.store.close()
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
            path.write_bytes(content)
            self.server.store = self._open_store()

    def _delete_rows(self, fault: Fault, meter: SimMeter) -> None:
        """By hand, behind the server's back."""
        if self.folder is not None:
            return
        chance = random.Random(f"{fault.number} {self.setting.seed}")
        own = self._memory._rows.get(meter.device_id, {})
        for second in [s for s in sorted(own) if chance.random() < 0.2]:
            self.ingested = {one for one in self.ingested if one[:2] != (meter.device_id, second)}
            del own[second]
            self._memory._verdicts.get(meter.device_id, {}).pop(minute_of(second), None)

    # --- what must hold -------------------------------------------------------------------------------

    def _check_proof(self, device_id: str) -> None:
        store = self.server.store
        stated = {m: of for (d, m), of in self.stated.items() if d == device_id and of}
        for start, stop in store.ranges_in(device_id, *_FAR, [MinuteState.PROVEN]):
            for minute in [m for m in stated if start <= m < stop]:
                stored = stored_samples(store, device_id, minute, minute + 60)
                for second, samples in (stated[minute] or {}).items():
                    if not samples.items() <= stored.get(second, {}).items():
                        raise ViolationError(
                            f"{device_id}: minute {minute} is proven, second {second} lacks what was stated"
                        )

    def _check_liveness(self, meter: SimMeter) -> None:
        store = self.server.store
        if not meter.seconds:
            return
        start, stop = minute_of(min(meter.seconds)), minute_of(max(meter.seconds)) + 60
        if left := store.unproven_ranges(meter.device_id, start, stop):
            raise ViolationError(
                f"{meter.device_id}: not settled {ROUNDS} rounds after the last fault: {left}"
            )
        proven = store.ranges_in(meter.device_id, start, stop, [MinuteState.PROVEN])
        stored = stored_samples(store, meter.device_id, start, stop)
        for second, samples in meter.seconds.items():
            if not any(a <= second < b for a, b in proven):
                raise ViolationError(f"{meter.device_id}: second {second} is not proven")
            if not samples.items() <= stored.get(second, {}).items():
                raise ViolationError(f"{meter.device_id}: second {second} lacks samples that the meter has")

    def _check_samples(self, meter: SimMeter) -> None:
        found = stored_samples(self.server.store, meter.device_id, *_FAR)
        stored = {(second, us, value) for second, of in found.items() for us, value in of.items()}
        if never := stored - meter.sent:
            raise ViolationError(f"{meter.device_id}: stored and never sent: {sorted(never)[:3]}")
        there = {(meter.device_id, second, us) for second, us, _ in stored}
        if gone := {one for one in self.ingested if one[0] == meter.device_id} - there:
            raise ViolationError(f"{meter.device_id}: was stored and is gone: {sorted(gone)[:3]}")


def _set(name: str, value: object) -> Callable[[World, Fault, SimMeter], None]:
    return lambda world, _fault, meter: getattr(world, name).__setitem__(meter.device_id, value)


def _step_meter(world: World, fault: Fault, meter: SimMeter) -> None:
    world.off_s[meter.device_id] = fault.amount


_BEGIN: dict[str, Callable[[World, Fault, SimMeter], None]] = {
    "cut": World._cut,
    "half-open cut": World._cut_half_open,
    "stall": lambda _w, _f, meter: setattr(meter, "stalls", True),
    "messages lost": _set("loss", 0.7),
    "messages late": _set("delay_s", 600.0),
    "meter's clock": _step_meter,
    "server's clock": lambda world, fault, _m: setattr(world.server, "off_s", fault.amount),
    "meter's store away": lambda _w, _f, meter: setattr(meter, "is_away", True),
    "meter loses samples": World._lose_samples,
    "meter changes samples": World._change_samples,
    "meter lies": lambda _w, _f, meter: setattr(meter, "lies", True),
    "server restarts": World._restart,
    "database away": lambda world, _f, _m: setattr(world.server, "database_is_away", True),
    "day goes back": World._go_back,
    "rows deleted": World._delete_rows,
    "silence": _set("is_silent", True),
}

_END: dict[str, Callable[[World, SimMeter], None]] = {
    "stall": lambda _w, meter: meter.go_on(),
    "messages lost": lambda world, meter: world.loss.__setitem__(meter.device_id, 0.0),
    "messages late": lambda world, meter: world.delay_s.__setitem__(meter.device_id, 0.0),
    "meter's clock": lambda world, meter: world.off_s.__setitem__(meter.device_id, 0),
    "server's clock": lambda world, _m: setattr(world.server, "off_s", 0.0),
    "meter's store away": World._mount,
    "meter lies": World._mend,
    "database away": lambda world, _m: setattr(world.server, "database_is_away", False),
    "silence": lambda world, meter: world.is_silent.__setitem__(meter.device_id, False),
}
