"""What each kind of fault does at its beginning and at its end.

``ACTIONS`` has a pair of functions for each kind of ``plan.KINDS``. Each takes the run and the fault. The
beginning may leave what the end needs in ``run.held``.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from system.faults.plan import Fault
from system.faults.preloaded import Preloaded
from system.faults.relay import Conditions, Relay
from system.faults.subject import ROOT, Subject, wait_until

KILL_AGAIN_S = 0.25
_LOCK_PATIENCE_S = 2.0


@dataclass(slots=True)
class Stage:
    """What faults act on."""

    subject: Subject
    preloaded: Preloaded
    relays: dict[str, Relay]
    devices_file: Path
    node: Any = None
    """The Cassandra node, where there is one (reference_cluster.node.Node)."""
    held: dict[Fault, Any] = field(default_factory=dict)
    did_nothing: set[Fault] = field(default_factory=set)
    """Faults that found nothing to act on, such as a file that is not there yet."""

    def restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """End the server in order and start it again.

        While another fault lasts, its end may be unclean: what cannot be stored waits for the next start.
        """
        self.subject.restart(orderly=True, must_be_clean=not self.held, meanwhile=meanwhile)


Act = Callable[[Stage, Fault], None]


def _nothing(_stage: Stage, _fault: Fault) -> None:
    pass


def _signal_all(stage: Stage, roles: str, number: int) -> list[int]:
    hit = []
    for role in roles.split("+"):
        for pid in stage.subject.pids(role):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                hit.append(pid)
    return hit


def _kill(stage: Stage, fault: Fault) -> None:
    _signal_all(stage, fault.target, signal.SIGKILL)


def _kill_often(stage: Stage, fault: Fault) -> None:
    until_s = time.monotonic() + fault.for_s
    while time.monotonic() < until_s:
        _kill(stage, fault)
        time.sleep(KILL_AGAIN_S)


def _freeze(stage: Stage, fault: Fault) -> None:
    stage.held[fault] = _signal_all(stage, fault.target, signal.SIGSTOP)
    if not stage.held[fault]:
        stage.did_nothing.add(fault)  # killed a moment ago, and not replaced yet


def _thaw(stage: Stage, fault: Fault) -> None:
    for pid in stage.held.pop(fault):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _restart(stage: Stage, _fault: Fault) -> None:
    stage.restart()


def _crash(stage: Stage, _fault: Fault) -> None:
    stage.subject.restart(orderly=False)


def _upgrade(stage: Stage, fault: Fault) -> None:
    def by_this_version() -> None:
        stage.subject.replace_by(ROOT)

    ordered = fault.target == "ordered"
    stage.subject.restart(orderly=ordered, must_be_clean=False, meanwhile=by_this_version)


# --- the network ------------------------------------------------------------------------------


def _relays(stage: Stage, fault: Fault) -> list[Relay]:
    return [stage.relays[name] for name in fault.target.split("+")]


def _cut(stage: Stage, fault: Fault) -> None:
    for relay in _relays(stage, fault):
        relay.cut()


def _cut_often(stage: Stage, fault: Fault) -> None:
    until_s = time.monotonic() + fault.for_s
    while time.monotonic() < until_s:
        _cut(stage, fault)
        time.sleep(0.05 + 0.4 * fault.amount)


def _worsen(of: Callable[[Fault], Conditions]) -> Act:
    def begin(stage: Stage, fault: Fault) -> None:
        for relay in _relays(stage, fault):
            relay.conditions = of(fault)

    return begin


def _improve(stage: Stage, fault: Fault) -> None:
    for relay in _relays(stage, fault):
        relay.conditions = Conditions()


# --- the disk ---------------------------------------------------------------------------------


def _fill(stage: Stage, fault: Fault) -> None:
    path = stage.subject.folder / "filler"
    stage.held[fault] = path
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(piece))


def _unfill(stage: Stage, fault: Fault) -> None:
    stage.held.pop(fault).unlink()


def _fail(points: tuple[str, ...], error: int, probability: float = 1.0) -> Act:
    def begin(stage: Stage, fault: Fault) -> None:
        stage.held[fault] = stage.subject.pids(fault.target)
        if not stage.held[fault]:
            stage.did_nothing.add(fault)
        for pid in stage.held[fault]:
            for point in points:
                stage.preloaded.fail(pid, point, error, probability)

    return begin


def _mend(points: tuple[str, ...]) -> Act:
    def end(stage: Stage, fault: Fault) -> None:
        for pid in stage.held.pop(fault):
            for point in points:
                stage.preloaded.mend(pid, point)

    return end


def _calls(*points: str, error: int, probability: float = 1.0) -> tuple[Act, Act]:
    names = tuple(f"posix/io/{point}" for point in points)
    return _fail(names, error, probability), _mend(names)


def _day_file(stage: Stage, fault: Fault) -> Path | None:
    files = sorted(stage.subject.data.glob("ec-*.sqlite"))
    return files[int(fault.amount * len(files))] if files else None


def _lock(stage: Stage, fault: Fault) -> None:
    path = _day_file(stage, fault)
    stage.held[fault] = None
    stage.did_nothing.add(fault)
    if path is None:
        return
    connection = apsw.Connection(str(path))
    until_s = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < until_s:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            time.sleep(0.005)
        else:
            stage.held[fault] = connection
            stage.did_nothing.discard(fault)
            return
    connection.close()


def _unlock(stage: Stage, fault: Fault) -> None:
    connection = stage.held.pop(fault)
    if connection is not None:
        connection.execute("ROLLBACK")
        connection.close()


def _copy_day(stage: Stage, fault: Fault) -> None:
    """Keep a copy of a day file, as a backup does."""
    path = _day_file(stage, fault)
    stage.held[fault] = None
    if path is None:
        return
    copy = stage.subject.folder / f"backup-{path.name}"
    source, target = apsw.Connection(str(path)), apsw.Connection(str(copy))
    try:
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(1000)
    except apsw.Error:  # busy or full, by another fault: there is no backup then
        copy.unlink(missing_ok=True)
    else:
        stage.held[fault] = (path, copy)
    finally:
        source.close()
        target.close()


def _take_away(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _put_back(kept: tuple[Path, Path] | None) -> None:
    if kept is not None:
        path, copy = kept
        _take_away(path)
        copy.replace(path)


def _restore(stage: Stage, fault: Fault) -> None:
    kept = stage.held.pop(fault)
    stage.restart(lambda: _put_back(kept))


def _restore_live(stage: Stage, fault: Fault) -> None:
    _put_back(stage.held.pop(fault))


def _remove(stage: Stage, fault: Fault) -> None:
    path = _day_file(stage, fault)
    stage.restart(lambda: _take_away(path) if path else None)


def _remove_live(stage: Stage, fault: Fault) -> None:
    path = _day_file(stage, fault)
    if path is not None:
        _take_away(path)


def _damage_day(stage: Stage, fault: Fault) -> None:
    path = _day_file(stage, fault)

    def overwrite() -> None:
        if path is not None:
            _take_away(path)
            path.write_bytes(b"not a database" * 1000)

    stage.restart(overwrite)


def _damage_progress(stage: Stage, _fault: Fault) -> None:
    def overwrite() -> None:
        path = stage.subject.data / "progress.db"
        _take_away(path)
        path.write_bytes(b"not a database" * 1000)

    stage.restart(overwrite)


def _remove_progress(stage: Stage, _fault: Fault) -> None:
    _take_away(stage.subject.data / "progress.db")


# --- clock, devices, database -----------------------------------------------------------------

_OFFSETS_S = {
    "back-hours": -7200.0,
    "back-seconds": -30.0,
    "ahead-seconds": 30.0,
    "back-days": -3.0 * 86_400,
    "ahead-days": 3.0 * 86_400,
}


def _step_clock(stage: Stage, fault: Fault) -> None:
    stage.preloaded.step_clock(_OFFSETS_S[fault.target] * (0.5 + fault.amount / 2))


def _right_clock(stage: Stage, _fault: Fault) -> None:
    stage.preloaded.step_clock(0.0)


def _break_devices(stage: Stage, fault: Fault) -> None:
    stage.held[fault] = stage.devices_file.read_text()
    stage.devices_file.write_text("[meter\nnetworks = everywhere\n")
    _signal_all(stage, fault.target, signal.SIGKILL)


def _mend_devices(stage: Stage, fault: Fault) -> None:
    stage.devices_file.write_text(stage.held.pop(fault))


def _freeze_node(stage: Stage, _fault: Fault) -> None:
    stage.node.pause()


def _thaw_node(stage: Stage, _fault: Fault) -> None:
    stage.node.resume()


def _kill_node(stage: Stage, _fault: Fault) -> None:
    stage.node.kill()


def _start_node(stage: Stage, _fault: Fault) -> None:
    stage.node.start()
    wait_until(lambda: _answers(stage), 90, "restart", "the Cassandra node")


def _answers(stage: Stage) -> bool:
    stage.node.wait_until_ready(90)
    return True


ACTIONS: dict[str, tuple[Act, Act]] = {
    "kill": (_kill, _nothing),
    "kill-many": (_kill, _nothing),
    "kill-often": (_kill_often, _nothing),
    "freeze": (_freeze, _thaw),
    "freeze-writer": (_freeze, _thaw),
    "restart": (_restart, _nothing),
    "crash": (_crash, _nothing),
    "upgrade": (_upgrade, _nothing),
    "cut": (_cut, _nothing),
    "cut-often": (_cut_often, _nothing),
    "loss": (_worsen(lambda fault: Conditions(loss=0.02 + 0.3 * fault.amount)), _improve),
    "delay": (_worsen(lambda fault: Conditions(delay_s=0.01 + 0.5 * fault.amount)), _improve),
    "reorder": (_worsen(lambda fault: Conditions(jitter_s=0.02 + 0.4 * fault.amount)), _improve),
    "full-disk": (_fill, _unfill),
    "no-space": _calls("rw/pwrite", "rw/ftruncate", error=errno.ENOSPC),
    "no-space-sync": _calls("rw/pwrite", "rw/ftruncate", error=errno.ENOSPC),
    "write-error": _calls("rw/pwrite", error=errno.EIO),
    "write-error-sync": _calls("rw/pwrite", error=errno.EIO),
    "sync-error": _calls("sync/fdatasync", "sync/fsync", error=errno.EIO),
    "read-error": _calls("rw/pread", error=errno.EIO),
    "some-errors": _calls("rw/pwrite", "rw/pread", "sync/fdatasync", error=errno.EIO, probability=0.1),
    "short-writes": _calls("rw/pwrite/reduce", error=0, probability=0.3),
    "locked": (_lock, _unlock),
    "day-damaged": (_damage_day, _nothing),
    "progress-damaged": (_damage_progress, _nothing),
    "progress-removed-live": (_remove_progress, _nothing),
    "clock-step": (_step_clock, _right_clock),
    "clock-wrong": (_step_clock, _right_clock),
    "day-restored": (_copy_day, _restore),
    "day-removed": (_remove, _nothing),
    "day-removed-live": (_remove_live, _nothing),
    "day-restored-live": (_copy_day, _restore_live),
    "devices-broken": (_break_devices, _mend_devices),
    "node-frozen": (_freeze_node, _thaw_node),
    "node-away": (_kill_node, _start_node),
}
