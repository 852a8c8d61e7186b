"""Derives "healthy?" and "ready?", with reasons, from the state of workers and database; pure.

Healthy: every worker answers and works, the database takes writes, and nothing stored is known to be
damaged. Ready: every worker answers and works, the database takes writes, and no worker is on its way
out, so every receiver listens and the sync server is up. Each reason names the worker (or ``storage``)
and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ec_server.status.database_view import DatabaseState
from ec_server.status.worker_view import WorkerView

SILENT_S = 10.0
"""A worker that has not beaten for longer does not answer; the launcher restarts it then."""

_STATE_FAULTS = {
    "starting": "is starting",
    "degraded": "is degraded",
    "dead": "is dead",
}


@dataclass(frozen=True, slots=True)
class Health:
    """Good where ``reasons`` is empty."""

    reasons: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


def worker_fault(worker: WorkerView) -> str:
    """What is wrong with a worker, in one line that names it; "" for nothing."""
    if worker.fault:
        return f"{worker.name}: {worker.fault}"
    if worker.state in _STATE_FAULTS:
        return f"{worker.name} {_STATE_FAULTS[worker.state]}" + _because(worker.reason)
    if worker.silent_s < 0:
        return f"{worker.name} has not answered since the machine started"
    if worker.silent_s > SILENT_S:
        return f"{worker.name} has not answered for {worker.silent_s:.0f} s"
    return ""


def storage_fault(database: DatabaseState) -> str:
    """What is wrong with the database, in one line; "" for nothing."""
    if database.error:
        return f"storage: {database.error}"
    if database.health and not database.health.writable:
        return f"storage takes no writes: {database.health.detail or 'the engine does not say why'}"
    return ""


def damage(database: DatabaseState) -> tuple[str, ...]:
    """What of the stored data is damaged, one line each, with the file's name."""
    found = database.health.damage if database.health else ()
    return tuple(f"storage is damaged: {line}" for line in found)


def working(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """Whether messages are received and stored; workers that no configuration asks for are left out."""
    faults = [worker_fault(worker) for worker in workers if worker.expected]
    return Health(tuple(filter(None, [*faults, storage_fault(database)])))


def healthy(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """The verdict of ``/healthz``."""
    return Health((*working(workers, database).reasons, *damage(database)))


def ready(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """The verdict of ``/readyz``: what does not work, and workers that are stopping."""
    listed = list(workers)
    leaving = [
        f"{worker.name} is stopping" + _because(worker.reason)
        for worker in listed
        if worker.expected and worker.state == "stopping"
    ]
    return Health((*leaving, *working(listed, database).reasons))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
