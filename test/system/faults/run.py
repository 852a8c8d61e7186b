"""One run: the server and its meters, the faults of a plan at their moments, and then the oracle."""

from __future__ import annotations

import heapq
import itertools
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from free_ports import free_ports
from system.faults import oracle
from system.faults.actions import ACTIONS, Stage
from system.faults.meter import Meter
from system.faults.plan import CASSANDRA, Fault, Plan
from system.faults.preloaded import Preloaded, can_fail_calls, clock_library
from system.faults.relay import Relay
from system.faults.release import release_before
from system.faults.subject import ROOT, Subject, Violation, wait_until
from system.faults.watch import Watch, figures_of

from ec_server.storage.contract import Store
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import StorageError
from utilities.utc import DAY_S

SYNCFREQ_MINUTES = "0.03"
PATIENCE_S = 90.0
"""For what has no deadline of its own; a busy machine may take long."""
RESTART_S = 3.0
"""A process that was killed this shortly before has no long waits to tell of: it is only coming up."""
_TMPFS_MB = 64
_TWO_SECONDS_IN_HOURS = "0.0006"


@dataclass(slots=True)
class Outcome:
    """What a run showed."""

    plan: Plan
    violation: Violation | None = None
    missing: tuple[str, ...] = ()
    """What the machine lacks, so that faults were left out."""
    took_s: float = 0.0
    recovery_s: float = 0.0
    """From the end of the last fault until health said yes and nothing was queued."""
    figures: Counter[str] = field(default_factory=Counter)
    shown: int = 0
    """Faults for which health had to say no."""
    proofs: int = 0
    """Proven minutes that were compared with their ledger during the run."""
    scrapes: int = 0
    folder: str = ""


def lacking() -> tuple[str, ...]:
    """What this machine has not, of ``Kind.needs``."""
    found = {
        "preload": can_fail_calls(),
        "clock": clock_library() is not None,
        "tmpfs": _can_mount(),
        "release": release_before() is not None,
    }
    return tuple(name for name, there in found.items() if not there)


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False
        ).returncode
        if mounted == 0:
            subprocess.run(["umount", folder], check=False)
        return mounted == 0


@contextmanager
def _folder(plan: Plan, parent: Path) -> Iterator[Path]:
    folder = parent / f"seed-{plan.seed}"
    folder.mkdir(parents=True)
    if not plan.needs("tmpfs"):
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MB}m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def run(plan: Plan, parent: Path, cassandra: Any = None, root: Path = ROOT) -> Outcome:
    """Run a plan in a new folder under ``parent``; never raises what the oracle finds."""
    missing = lacking() if any(f.rules.needs for f in plan.faults) else ()
    outcome = Outcome(plan.without(missing), missing=tuple(name for name in missing if plan.needs(name)))
    begun_s = time.monotonic()
    try:
        with _folder(plan, parent) as folder:
            outcome.folder = str(folder)
            Run(outcome, folder, cassandra, root).go()
    except Violation as violation:
        outcome.violation = violation
    except StorageError as error:
        outcome.violation = Violation("files", f"what is stored cannot be read: {error}")
    outcome.took_s = time.monotonic() - begun_s
    return outcome


class Run:
    """``go`` raises Violation where something does not hold."""

    def __init__(self, outcome: Outcome, folder: Path, cassandra: Any, root: Path) -> None:
        self._plan, self._outcome, self._cassandra = outcome.plan, outcome, cassandra
        plan = outcome.plan
        self._files = threading.Lock()
        """Held while files of the database are exchanged, so that nobody reads them meanwhile."""
        preloaded = Preloaded(folder, calls=plan.needs("preload"), clock=plan.needs("clock"))
        devices = folder / "devices.ini"
        devices.write_text("".join(f"[{self._name(i)}]\n" for i in range(len(plan.meters))))
        older = release_before() if plan.needs("release") else None
        self._subject = Subject(folder, self._environ(preloaded, devices), older or root)
        self._subject.is_older = older is not None
        sip, sync = free_ports(2)
        self._relays = {
            "sip": Relay(sip, self._subject.sip_port, plan.seed, udp=True),
            "sync": Relay(sync, self._subject.sync_port, plan.seed + 1),
        }
        node = cassandra.own_node() if cassandra else None
        self._stage = Stage(self._subject, preloaded, self._relays, devices, node)
        first = self._first_second()
        self._meters = [Meter(self._name(i), m, first, sip, sync) for i, m in enumerate(plan.meters)]
        self._open_store = self._store_opener()

    def _name(self, number: int) -> str:
        return f"meter-{self._plan.seed}-{number}"

    def _first_second(self) -> int:
        """An hour or two ago, some way into a minute; a little before midnight where the plan crosses it."""
        now = int(time.time())
        if self._plan.across_midnight:
            return now - now % DAY_S - 45
        return now - now % 3600 - 3600 + random.Random(self._plan.seed).randrange(10, 50)

    def _environ(self, preloaded: Preloaded, devices: Path) -> dict[str, str]:
        plan = self._plan
        environ = {
            "EC_SIP_RECEIVERS": str(plan.receivers),
            "EC_STORAGE_SYNCHRONOUS": plan.synchronous,
            "EC_STORAGE_MIN_FREE_MB": "1",
            "EC_SYNC_SYNCFREQ": SYNCFREQ_MINUTES,
            "EC_INGEST_QUEUE_BATCHES": "2000",
            **preloaded.environ,
        }
        if any(fault.kind == "devices-broken" for fault in plan.faults):
            environ["EC_DEVICES_FILE"] = str(devices)
        if plan.packs and not plan.needs("release"):
            environ["EC_STORAGE_PACK_AFTER_HOURS"] = _TWO_SECONDS_IN_HOURS
        if self._cassandra:
            environ |= self._cassandra.settings(self._keyspace)
        return environ

    @property
    def _keyspace(self) -> str:
        return f"ec_faults_{self._plan.seed}"

    def _store_opener(self) -> oracle.OpenStore:
        if self._plan.engine == CASSANDRA:
            from ec_server.storage.cassandra_store import CassandraStore

            def opened() -> Store:
                store = CassandraStore(self._cassandra.target(self._keyspace), read_only=True)
                store.wait(PATIENCE_S)
                return store

            return opened
        return lambda: SqliteStore(self._subject.data, read_only=True)

    # --- the course of it -----------------------------------------------------------------------

    def go(self) -> None:
        """From the start of the server to its end."""
        with ExitStack() as ended:
            for relay in self._relays.values():
                ended.callback(relay.stop)
            ended.callback(self._subject.clean_up)
            ended.callback(self._thaw_node)
            self._subject.start()
            for meter in self._meters:
                ended.callback(meter.stop)
                meter.start()
                if self._plan.synchronizes_meanwhile:
                    meter.synchronize()
            watch = Watch(self._subject, self._check_proof)
            watch.start()
            times = self._carry_out()
            self._recover(watch)
            watch.stop()
            self._check_health(watch, times)
            self._check_without_rounds()
            self._check_after_a_round()
            self._end()

    def _thaw_node(self) -> None:
        if self._stage.node is not None:
            self._stage.node.resume()

    def _check_proof(self) -> None:
        oracle.check_not_ahead(self._meters)
        with self._files:
            ledgers = [meter.ledger for meter in self._meters]
            self._outcome.proofs += oracle.check_proof(self._open_store, ledgers)

    def _carry_out(self) -> dict[Fault, tuple[float, float]]:
        """Every fault at its moment; when each began and ended, monotonic."""
        begun_s, order = time.monotonic(), itertools.count()
        events: list[tuple[float, int, Fault, int]] = []
        for fault in self._plan.faults:
            heapq.heappush(events, (fault.at_s, next(order), fault, 0))
        times: dict[Fault, tuple[float, float]] = {}
        while events:
            at_s, _, fault, step = heapq.heappop(events)
            time.sleep(max(0.0, begun_s + at_s - time.monotonic()))
            if step == 0:
                self._act(fault, 0)
                began_s = time.monotonic()
                times[fault] = (began_s, began_s)
                heapq.heappush(events, (max(at_s, began_s - begun_s) + fault.for_s, next(order), fault, 1))
            else:
                times[fault] = (times[fault][0], time.monotonic())
                self._act(fault, 1)
        time.sleep(max(0.0, begun_s + self._plan.load_s - time.monotonic()))
        for meter in self._meters:
            meter.end_recording()
        return times

    def _act(self, fault: Fault, step: int) -> None:
        act = partial(ACTIONS[fault.kind][step], self._stage, fault)
        if fault.rules.loses_history:
            with self._files:
                act()
        else:
            act()

    # --- what must hold -------------------------------------------------------------------------

    def _recover(self, watch: Watch) -> None:
        """Health says yes, and nothing is left on its way, within 30 s of the last fault's end.

        A Cassandra node needs up to a minute to start. Messages spooled until then are stored before
        the 30 s begin.
        """
        if self._plan.engine == CASSANDRA:
            wait_until(
                lambda: not self._figures()["ec_spool_batches"], PATIENCE_S, "account", "an empty spool"
            )
        ended_s = time.monotonic()
        if not self._plan.damages:
            self._outcome.recovery_s = wait_until(
                lambda: watch.says_yes_since(ended_s), oracle.RECOVERY_S, "health", "health to say yes"
            )
        wait_until(lambda: all(m.has_sent_all for m in self._meters), PATIENCE_S, "meters", "every answer")
        wait_until(self._is_at_rest, PATIENCE_S, "account", "nothing to be queued or spooled")

    def _is_at_rest(self) -> bool:
        figures = self._figures()
        return not figures["ec_queue_batches"] and not figures["ec_spool_batches"]

    def _is_healthy(self) -> bool:
        answer = self._subject.get("/healthz")
        return answer is not None and answer.status_code == 200

    def _figures(self) -> Counter[str]:
        answer = self._subject.get("/metrics")
        if answer is None or answer.status_code != 200:
            return Counter({"ec_queue_batches": 1})
        return figures_of(answer.text)

    def _check_health(self, watch: Watch, times: dict[Fault, tuple[float, float]]) -> None:
        self._outcome.scrapes = watch.scrapes
        for fault, (began_s, ended_s) in times.items():
            alone = all(
                other is fault or after + RESTART_S < began_s or before > ended_s
                for other, (before, after) in times.items()
            )
            if alone and fault not in self._stage.did_nothing:
                self._outcome.shown += oracle.check_health(watch.looks, fault, began_s, ended_s)

    def _check_without_rounds(self) -> None:
        """Where no round has repaired anything yet: what was answered is there, and the rows are counted."""
        plan = self._plan
        if plan.synchronizes_meanwhile or plan.loses_history or plan.rejects:
            return
        figures = self._figures()
        with self._open_store() as store:
            for meter in self._meters:
                oracle.check_answered(store, meter)
            exact = plan.engine != CASSANDRA
            oracle.check_rows_against_account(store, self._meters, figures, exact=exact)

    def _check_after_a_round(self) -> None:
        """A new connection, its first round, and everything is equal and proven."""
        for meter in self._meters:
            meter.synchronize()
        through: dict[str, int | None] = {}
        for meter in self._meters:
            answerer = meter.answerer
            assert answerer is not None
            wait_until(lambda a=answerer: a.rounds, PATIENCE_S, "equal", "a round")  # type: ignore[misc]
            through[meter.ledger.device_id] = answerer.verified.through if answerer.verified else None
        wait_until(self._is_healthy, oracle.RECOVERY_S, "health", "health to say yes after the round")
        with self._open_store() as store:
            for meter in self._meters:
                oracle.check_equal(store, meter.ledger)
        oracle.check_verified(through, [meter.ledger for meter in self._meters])

    def _end(self) -> None:
        self._outcome.figures = self._figures()
        oracle.check_final_account(self._plan, self._outcome.figures, self._meters)
        for meter in self._meters:
            meter.stop()
        self._subject.end()
        self._subject.wait_for_children()
        oracle.check_files(self._subject.data)
        oracle.check_log(self._subject.log())
        with self._open_store() as store:
            for meter in self._meters:
                oracle.check_equal(store, meter.ledger)
