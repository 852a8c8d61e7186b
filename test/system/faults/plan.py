"""What a run does to the server and when, from one seed; pure, so that a seed always gives the same plan.

A plan is the surroundings of a run (engine, receivers, meters) and a list of faults. Each fault begins
at its moment of the run's load, lasts for a while, and ends; those that take no time have no duration.
Faults may overlap. The load begins before the first and ends after the last. What a fault does stands in
``actions.py``; what must hold whatever happens, in ``oracle.py``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

SQLITE, CASSANDRA = "sqlite", "cassandra"
ENGINES = (SQLITE, CASSANDRA)

TAIL_S = 0.6
"""How long the load goes on after the last fault."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fail, and what the server owes while it lasts."""

    targets: tuple[str, ...] = ("",)
    """What it hits; one is chosen."""
    lasts_s: tuple[float, float] = (0.0, 0.0)
    engines: tuple[str, ...] = ENGINES
    weight: int = 2
    shown_after_s: float = 0.0
    """Health must say no from then on, until the fault ends; 0: it need not."""
    shown_as: tuple[str, ...] = ()
    """Words of which a reason of health must hold one."""
    loses_history: bool = False
    """Stored rows may be gone or of an older state until the next round."""
    rejects: bool = False
    """Messages of honest meters may be rejected."""
    ends_server: bool = False
    """Every process is replaced."""
    is_damage: bool = False
    """Health says no until a round has brought back what is gone."""
    needs: str = ""
    """What the machine must have: ``preload``, ``clock``, ``tmpfs``, ``release``."""


PROCESSES = ("receiver", "writer", "sync", "status")
_WRITES = ("writer", "sync")

KINDS: dict[str, Kind] = {
    # Processes
    "kill": Kind((*PROCESSES, "writer"), weight=6),
    "kill-many": Kind(("receiver+writer", "writer+sync", "receiver+sync", "sync+status"), weight=2),
    "kill-often": Kind(("writer", "receiver", "sync"), (0.8, 2.0)),
    "freeze": Kind((*PROCESSES, "launcher"), (0.2, 3.5), weight=3),
    "freeze-writer": Kind(
        ("writer",), (7.0, 7.5), weight=1, shown_after_s=6.0, shown_as=("writer has not answered",)
    ),
    "restart": Kind(weight=2, ends_server=True),
    "crash": Kind(weight=2, ends_server=True),
    "upgrade": Kind(("ordered", "killed"), engines=(SQLITE,), weight=1, ends_server=True, needs="release"),
    # The network
    "cut": Kind(("sip", "sync", "sip+sync"), weight=2),
    "cut-often": Kind(("sip", "sync", "sip+sync"), (0.5, 2.5)),
    "loss": Kind(("sip", "sync", "sip+sync"), (0.5, 3.0), weight=2),
    "delay": Kind(("sip", "sync", "sip+sync"), (0.5, 3.0), weight=2),
    "reorder": Kind(("sip",), (0.5, 3.0)),
    # The disk
    "full-disk": Kind((), (3.5, 4.5), (SQLITE,), 2, 2.5, ("full", "space", "free"), needs="tmpfs"),
    "no-space": Kind(("writer",), (3.5, 4.5), (SQLITE,), 2, 2.5, ("full", "space", "free"), needs="preload"),
    "no-space-sync": Kind(("sync",), (1.0, 3.0), (SQLITE,), 1, needs="preload"),
    "write-error": Kind(("writer",), (3.5, 4.5), (SQLITE,), 2, 2.5, ("I/O",), needs="preload"),
    "write-error-sync": Kind(("sync",), (1.0, 3.0), (SQLITE,), 1, needs="preload"),
    "sync-error": Kind(_WRITES, (1.0, 3.0), (SQLITE,), needs="preload"),
    "read-error": Kind((*_WRITES, "status"), (0.5, 2.5), (SQLITE,), needs="preload"),
    "some-errors": Kind(_WRITES, (1.0, 3.0), (SQLITE,), needs="preload"),
    "short-writes": Kind(_WRITES, (1.0, 3.0), (SQLITE,), needs="preload"),
    "locked": Kind((), (6.0, 6.5), (SQLITE,), 1, 5.2, ("locked", "busy", "longer than")),
    # The clock
    "clock-step": Kind(("back-hours", "back-seconds", "ahead-seconds"), (0.5, 3.0), needs="clock"),
    "clock-wrong": Kind(("back-days", "ahead-days"), (0.5, 3.0), rejects=True, needs="clock"),
    # What people do
    "day-restored": Kind((), (0.8, 2.5), (SQLITE,), 2, loses_history=True, ends_server=True),
    "day-removed": Kind((), (0.0, 0.0), (SQLITE,), 1, loses_history=True, ends_server=True),
    "day-removed-live": Kind((), (0.0, 0.0), (SQLITE,), 1, loses_history=True),
    "day-restored-live": Kind((), (0.8, 2.5), (SQLITE,), 1, loses_history=True),
    "day-damaged": Kind((), (0.0, 0.0), (SQLITE,), 1, loses_history=True, ends_server=True, is_damage=True),
    "progress-damaged": Kind((), (0.0, 0.0), (SQLITE,), 1, ends_server=True),
    "progress-removed-live": Kind((), (0.0, 0.0), (SQLITE,), 1),
    "devices-broken": Kind(
        ("writer", "sync"),
        (5.0, 6.0),
        weight=1,
        shown_after_s=4.5,
        shown_as=("devices", "starting", "exit code 2"),
    ),
    # The database
    "node-frozen": Kind((), (1.0, 3.0), (CASSANDRA,), 5),
    "node-away": Kind((), (6.0, 8.0), (CASSANDRA,), 3, 5.5, ("Cassandra", "cassandra")),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a run. ``amount``, from 0 to 1, chooses among what the kind leaves open."""

    kind: str
    target: str
    at_s: float
    for_s: float
    amount: float

    @property
    def rules(self) -> Kind:
        """What holds for its kind."""
        return KINDS[self.kind]

    @property
    def end_s(self) -> float:
        """When it ends, from the beginning of the load."""
        return self.at_s + self.for_s

    def __str__(self) -> str:
        """For people: what, of whom, when."""
        target = f" {self.target}" if self.target else ""
        lasts = f" for {self.for_s:.2f} s" if self.for_s else ""
        return f"{self.kind}{target} at {self.at_s:.2f} s{lasts}"


@dataclass(frozen=True, slots=True)
class MeterPlan:
    """How one meter sends."""

    transport: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    engine: str
    receivers: int
    synchronous: str
    packs: bool
    """Minutes are packed a second after they are stored."""
    synchronizes_meanwhile: bool
    """Meters are connected for rounds during the load, not only after it."""
    across_midnight: bool
    """Samples belong to two UTC days."""
    meters: tuple[MeterPlan, ...]
    faults: tuple[Fault, ...]

    @property
    def load_s(self) -> float:
        """How long the meters record and send."""
        return max((fault.end_s for fault in self.faults), default=0.0) + TAIL_S

    @property
    def loses_history(self) -> bool:
        """Whether some fault takes stored rows away."""
        return any(fault.rules.loses_history for fault in self.faults)

    @property
    def damages(self) -> bool:
        """Whether some fault leaves damage that a round has to mend."""
        return any(fault.rules.is_damage for fault in self.faults)

    @property
    def rejects(self) -> bool:
        """Whether some fault makes the server refuse what honest meters send."""
        return any(fault.rules.rejects for fault in self.faults)

    def needs(self, what: str) -> bool:
        """Whether some fault needs this of the machine."""
        return any(fault.rules.needs == what for fault in self.faults)

    def without(self, missing: Sequence[str]) -> Plan:
        """The plan without the faults that need what the machine lacks."""
        return replace(self, faults=tuple(f for f in self.faults if f.rules.needs not in missing))

    def only(self, numbers: Sequence[int]) -> Plan:
        """The plan with these of its faults."""
        return replace(self, faults=tuple(self.faults[i] for i in numbers))

    def __str__(self) -> str:
        """For people: the surroundings, then one line per fault."""
        meters = ", ".join(f"{m.transport} {'binary' if m.binary else 'text'}" for m in self.meters)
        flags = [
            name
            for name, on in (
                ("packing", self.packs),
                ("rounds meanwhile", self.synchronizes_meanwhile),
                ("across midnight", self.across_midnight),
            )
            if on
        ]
        engine = f"{self.engine} {self.synchronous}, {self.receivers} receivers"
        head = f"seed {self.seed}: {engine}, meters: {meters}"
        lines = [f"  {number}: {fault}" for number, fault in enumerate(self.faults)]
        return "\n".join([", ".join([head, *flags]), *lines])


def plan_of(seed: int, engine: str = SQLITE, longest_s: float = 9.0) -> Plan:
    """The plan of a seed: one to four faults whose load takes about ``longest_s`` at most."""
    choose = random.Random(f"{engine} {seed}")
    meters = tuple(
        MeterPlan(choose.choice(("tcp", "tcp", "udp")), choose.random() < 0.3)
        for _ in range(choose.choice((2, 2, 3)))
    )
    surroundings = Plan(
        seed,
        engine,
        choose.choice((1, 1, 2)),
        choose.choice(("normal", "full")),
        engine == SQLITE and choose.random() < 0.4,
        choose.random() < 0.6,
        choose.random() < 0.3,
        meters,
        (),
    )
    faults = tuple(_faults(choose, engine, longest_s))
    return replace(surroundings, faults=tuple(fault for fault in faults if _can_be(fault, faults)))


def _faults(choose: random.Random, engine: str, longest_s: float) -> Iterator[Fault]:
    names = [name for name, kind in KINDS.items() if engine in kind.engines]
    weights = [KINDS[name].weight for name in names]
    at_s, has_release = choose.uniform(0.3, 1.2), False
    for _ in range(choose.choice((1, 2, 2, 3, 4))):
        name = choose.choices(names, weights)[0]
        kind = KINDS[name]
        for_s = choose.uniform(*kind.lasts_s)
        target, amount = choose.choice(kind.targets or ("",)), choose.random()
        if at_s + for_s > longest_s or (name == "upgrade" and has_release):
            continue
        has_release = has_release or name == "upgrade"
        yield Fault(name, target, round(at_s, 3), round(for_s, 3), round(amount, 6))
        overlaps = choose.random() < 0.4 and not kind.shown_after_s
        at_s += choose.uniform(0.1, 0.5) + (0.0 if overlaps else for_s)


def _can_be(fault: Fault, faults: Sequence[Fault]) -> bool:
    """Whether the server can be expected to survive this fault among the others.

    The version before does not start on a damaged file, and no version with a broken devices file.
    """
    if fault.kind in ("day-damaged", "progress-damaged"):
        return not any(other.kind == "upgrade" and other.at_s > fault.at_s for other in faults)
    if fault.kind == "devices-broken":
        starts = [at_s for other in faults if other.rules.ends_server for at_s in (other.at_s, other.end_s)]
        return not any(fault.at_s <= at_s <= fault.end_s for at_s in starts)
    return True


def in_turn(plans: Sequence[Plan]) -> Plan:
    """The faults of several plans, one plan after the other, in the first one's surroundings."""
    faults: list[Fault] = []
    begin_s = 0.0
    for plan in plans:
        faults += [replace(fault, at_s=round(begin_s + fault.at_s, 3)) for fault in plan.faults]
        begin_s = max((fault.end_s for fault in faults), default=0.0)
    return replace(plans[0], faults=tuple(faults))


def simpler(plan: Plan) -> Iterator[tuple[int, ...]]:
    """What to try when a plan fails: its faults without one of them, as numbers for ``Plan.only``."""
    everything = range(len(plan.faults))
    for left_out in everything:
        if len(plan.faults) > 1:
            yield tuple(number for number in everything if number != left_out)
