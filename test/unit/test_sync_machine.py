"""Everything that can happen between a meter and the server, in any order; without sockets.

The rules: the meter records, messages get lost, late or doubled, both clocks step, connections and the
server come and go, rows are deleted or altered by hand, and the meter loses samples, its whole store for
a while, or lies. Two things must hold.

* A minute is on record as proven only if every sample that the meter last stated for it is stored with
  its value. What a lying meter states is held against what it lists.
* Once the clocks are right and the meter is honest and has its store, everything ends proven.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from foreign_sqlite import by_hand
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sync_meter import NOON, Connection, MemoryMeter, Samples_, batch, stored_samples

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.coverage import RoundRules
from ec_server.synchronization.frames import Answer, Minutes, Samples, Seconds
from utilities.model import Digest, MinuteState
from utilities.utc import ec_date, ec_time, minute_of

DEVICE = "meter-7"
RULES = RoundRules(grace_s=10.0, back_days=400.0, retention_days=0)
PROVEN = frozenset([MinuteState.PROVEN])
SECOND = st.dictionaries(
    st.sampled_from([0, 1, 22, 45, 500_000, 999_999]), st.sampled_from(["1", "1.0", "-2", "3e1"]), min_size=1
)
STEP_S = st.sampled_from([1, 7, 30, 60, 61, 150, 600])
CLOCK_S = st.sampled_from([-4000, -600, -61, -30, -1, 0, 1, 30, 61, 600, 4000])


class Meter(MemoryMeter):
    """A meter whose store may be away, and which notes what it states."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.recorded_again: int | None = None
        """The earliest minute recorded again since the server was last told."""

    def oldest(self) -> int | None:
        return None if self.is_away else super().oldest()

    def through(self) -> int | None:
        known = [m for m in (self.unfinished, self.recorded_again) if m is not None]
        return min(known, default=None)

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        return [] if self.is_away else super().minute_digests(start, stop)

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        # Whole minutes only differ where the store comes or goes in mid-round, which rules do not do.
        return super().second_digests(minute)


class Lies:
    """Distorts answers as drawn; the same question gets the same lie."""

    def __init__(self, draw: st.DataObject) -> None:
        self._draw = draw

    def __call__(self, answer: Answer) -> Answer:
        if not self._draw.draw(st.booleans(), label="lie"):
            return answer
        if isinstance(answer, Minutes | Seconds):
            return self._digests(answer)
        return self._samples(answer)

    def _digests(self, answer: Minutes | Seconds) -> Answer:
        told = [(moment, self._lie_about(digest)) for moment, digest in answer.digests]
        return replace(answer, digests=tuple((m, digest) for m, digest in told if digest is not None))

    def _lie_about(self, digest: Digest) -> Digest | None:
        how = self._draw.draw(st.sampled_from(["keep", "drop", "md5", "count"]))
        lies = {"md5": Digest(digest.count, "0" * 32), "count": Digest(digest.count + 1, digest.md5)}
        return None if how == "drop" else lies.get(how, digest)

    def _samples(self, answer: Samples) -> Answer:
        how = self._draw.draw(st.sampled_from(["nothing", "other", "md5", "cut"]))
        if how == "other":
            other = MemoryMeter({answer.second: self._draw.draw(SECOND)})
            digest, payload = other.packed(answer.second) or (None, b"")
            assert digest is not None
            count, md5 = digest.count, digest.md5
            return Samples(answer.id, answer.second, count, md5, True, len(payload), payload)
        if how == "md5" and answer.count:
            return replace(answer, md5="0" * 32)
        if how == "cut" and answer.count:
            return replace(answer, payload=answer.payload[:-1], length=answer.length - 1)
        return Samples(answer.id, answer.second, 0, "", False, 0)


class Synchronization(RuleBasedStateMachine):
    """With the engine in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
        self.meter = Meter()
        self.true_s = NOON + 600.0
        self.server_off_s = self.meter_off_s = 0
        self.late: list[tuple[int, Samples_]] = []
        self.connection: Connection | None = None
        self.stated_to = 0.0
        """Before it the meter may have been asked about everything."""
        self.stated: dict[int, dict[int, Samples_] | Digest] = {}
        """By minute, what the meter last stated: its seconds, or only a digest where it lied."""

    def open(self) -> Store:
        return MemoryStore()

    def restart_store(self) -> None:
        """The server's process ends and begins; memory is what this engine has, so it stays."""

    @property
    def meter_s(self) -> int:
        return int(self.true_s) + self.meter_off_s

    # --- the meter records, messages travel -------------------------------------------------

    @initialize(says_through=st.booleans())
    def begin(self, says_through: bool) -> None:
        """Whether the meter says how far it is is its maker's choice."""
        self.says_through = says_through
        self.store.note_devices({DEVICE: NOON * 1_000_000})
        self.tell_time()

    def tell_time(self) -> None:
        self.meter.unfinished = minute_of(self.meter_s) if self.says_through else None

    @rule(samples=SECOND, arrives=st.sampled_from(["all", "some", "late", "twice", "not"]))
    def record(self, samples: Samples_, arrives: str) -> None:
        second = self.meter_s
        if second < self.stated_to:
            self.record_again(minute_of(second))
        self.meter.seconds[second] = samples
        if arrives == "late":
            self.late.append((second, samples))
        elif arrives == "some":
            self.deliver(second, dict(list(samples.items())[::2]))
        elif arrives != "not":
            for _ in range(1 + (arrives == "twice")):
                self.deliver(second, samples)
        self.pass_time(1)

    def record_again(self, minute: int) -> None:
        """What was stated of a minute does not hold any more: an honest meter says so by ``through``."""
        self.meter.recorded_again = min(minute, self.meter.recorded_again or minute)

    def deliver(self, second: int, samples: Samples_) -> None:
        self.store.ingest([batch(DEVICE, second, samples)])

    @rule(which=st.randoms(use_true_random=False))
    @precondition(lambda self: self.late)
    def arrive_late(self, which: Any) -> None:
        self.deliver(*self.late.pop(which.randrange(len(self.late))))

    @rule(seconds=STEP_S)
    def pass_time(self, seconds: int) -> None:
        self.true_s += seconds
        self.tell_time()

    # --- clocks, losses, damage -----------------------------------------------------------------

    @rule(off_s=CLOCK_S)
    def step_server_clock(self, off_s: int) -> None:
        self.server_off_s = off_s

    @rule(off_s=CLOCK_S)
    def step_meter_clock(self, off_s: int) -> None:
        self.meter_off_s = off_s
        self.tell_time()

    @rule(away=st.booleans())
    def mount_or_lose_the_meter_s_store(self, away: bool) -> None:
        if self.meter.is_away and not away:
            self.connection = None  # a meter that has its store back connects again
        self.meter.is_away = away

    @rule(which=st.randoms(use_true_random=False))
    @precondition(lambda self: self.meter.seconds)
    def lose_a_second_at_the_meter(self, which: Any) -> None:
        second = which.choice(sorted(self.meter.seconds))
        del self.meter.seconds[second]
        self.record_again(minute_of(second))

    @rule()
    def restart_server(self) -> None:
        self.connection = None
        self.restart_store()

    @rule()
    def lose_connection(self) -> None:
        self.connection = None

    # --- rounds ---------------------------------------------------------------------------------

    @rule()
    def honest_round(self) -> None:
        self.round(None)

    @rule(data=st.data())
    def lying_round(self, data: st.DataObject) -> None:
        self.round(Lies(data))

    def round(self, lies: Lies | None) -> None:
        if self.connection is None:
            self.connection = Connection(self.store, self.meter, RULES)

        def heard(answer: Answer) -> Answer:
            told = answer if lies is None else lies(answer)
            if isinstance(told, Minutes):
                self.note_statement(told, is_lie=told != answer)
            return told

        told_through = self.meter.through()
        self.stated_to = max(self.stated_to, self.true_s + self.server_off_s)
        verified, crossed = self.connection.round(
            self.true_s + self.server_off_s, true_s=self.true_s, distort=heard
        )
        assert verified.start <= verified.through <= self.true_s + self.server_off_s - 10
        if crossed.requests and lies is None:
            assert told_through is None or verified.through <= told_through
            self.meter.recorded_again = None

    def note_statement(self, told: Minutes, is_lie: bool) -> None:
        for minute, digest in told.digests:
            if told.through is not None and minute >= told.through:
                continue
            seconds = {s: dict(v) for s, v in self.meter.seconds.items() if minute_of(s) == minute}
            self.stated[minute] = digest if is_lie else seconds

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def what_is_proven_is_stored_as_last_stated(self) -> None:
        far = NOON + 10**6
        for start, stop in self.store.ranges_in(DEVICE, NOON - 10**5, far, PROVEN):
            stored = stored_samples(self.store, DEVICE, start, stop)
            for minute in range(start, stop, 60):
                stated = self.stated.get(minute, {})
                if isinstance(stated, Digest):
                    continue  # a lie that fits is nothing that the server could know
                for second, samples in stated.items():
                    assert samples.items() <= stored.get(second, {}).items(), (minute, second)

    def teardown(self) -> None:
        """An honest meter, right clocks, and its store: all is proven after a new connection's rounds."""
        self.server_off_s = self.meter_off_s = 0
        self.meter.is_away, self.connection = False, None
        furthest = max([*self.meter.seconds, int(self.true_s)])
        self.true_s = float(furthest)
        for _ in range(2):
            self.pass_time(120)
            self.round(None)
        start = min([*map(minute_of, self.meter.seconds), minute_of(int(self.true_s)) - 120])
        stop = minute_of(int(self.true_s) - 10)
        assert self.store.unproven_ranges(DEVICE, start, stop) == []
        stored = stored_samples(self.store, DEVICE, start, stop)
        for second, samples in self.meter.seconds.items():
            assert samples.items() <= stored[second].items(), second
        self.store.close()


class SqliteSynchronization(Synchronization):
    """With real files, which are also changed by hand and restored to an older state."""

    def open(self) -> Store:
        self.folder = Path(tempfile.mkdtemp(prefix="sync-machine-"))
        self.saved: dict[Path, bytes] = {}
        return SqliteStore(self.folder)

    def restart_store(self) -> None:
        self.store.close()
        self.store = SqliteStore(self.folder)

    @rule()
    def back_up_the_day_files(self) -> None:
        self.restart_server()
        self.store.close()
        self.saved = {path: path.read_bytes() for path in self.folder.glob("ec-*.sqlite")}
        self.store = SqliteStore(self.folder)

    @rule()
    @precondition(lambda self: self.saved)
    def restore_the_day_files(self) -> None:
        """Proof goes back with the rows, and what was stated since is unproven by itself."""
        self.restart_server()
        self.store.close()
        for path, content in self.saved.items():
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
            path.write_bytes(content)
        self.store = SqliteStore(self.folder)

    @rule(which=st.randoms(use_true_random=False), change=st.sampled_from(["delete", "alter"]))
    def change_rows_by_hand(self, which: Any, change: str) -> None:
        stored = list(self.store.rows(DEVICE, NOON - 10**5, NOON + 10**6))
        if not stored:
            return
        row = which.choice(stored).batch
        nine = "UPDATE ec_consumption SET ec_consumption_values = replace(ec_consumption_values, ',', ',9')"
        by_hand(
            self.folder / f"ec-{ec_date(row.second)}.sqlite",
            f"{'DELETE FROM ec_consumption' if change == 'delete' else nine} "
            f"WHERE device_id = '{DEVICE}' AND ec_time = '{ec_time(row.second)}'",
        )


STEPS = settings(
    deadline=None,
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(params=[Synchronization, SqliteSynchronization], ids=["memory", "sqlite"])
def machine(request: pytest.FixtureRequest) -> type[Synchronization]:
    chosen: type[Synchronization] = request.param
    return chosen


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_what_is_proven_is_stored_and_an_honest_meter_ends_proven(machine: type[Synchronization]) -> None:
    run_state_machine_as_test(machine, settings=STEPS)  # type: ignore[no-untyped-call]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_same_over_a_hundred_thousand_steps(machine: type[Synchronization]) -> None:
    steps = int(os.environ.get("EC_TEST_STEPS", "100000"))
    more = settings(STEPS, max_examples=steps // 50, stateful_step_count=50)
    run_state_machine_as_test(machine, settings=more)  # type: ignore[no-untyped-call]
