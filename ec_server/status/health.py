"""Derives health and readiness, with reasons, from the state of the workers and the database; pure.

Healthy: every worker answers and works, the database accepts writes, and no damage to stored data is known.
Ready: every worker answers and works, the database accepts writes, and no worker is stopping, so every
receiver listens and the sync server is up. Each reason names the worker (or ``storage``) and what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ec_server.status.database_view import DatabaseState
from ec_server.status.worker_view import WorkerView

SILENT_S = 10.0
"""A worker without a heartbeat for longer counts as not answering; the launcher then restarts it."""

_STATE_FAULTS = {
    "starting": "is starting",
    "degraded": "is degraded",
    "dead": "is dead",
}


@dataclass(frozen=True, slots=True)
class Health:
    """Good if ``reasons`` is empty."""

    reasons: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


def worker_fault(worker: WorkerView) -> str:
    """What is wrong with a worker, in one line that names it; "" if nothing is."""
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
    """What is wrong with the database, in one line; "" if nothing is."""
    if database.error:
        return f"storage: {database.error}"
    if database.health and not database.health.writable:
        return f"storage takes no writes: {database.health.detail or 'the engine does not say why'}"
    return ""


def damage(database: DatabaseState) -> tuple[str, ...]:
    """Damage of stored data, one line each, with the file's name."""
    found = database.health.damage if database.health else ()
    return tuple(f"storage is damaged: {line}" for line in found)


def working(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """Whether messages are received and stored; ignores workers that are not configured."""
    faults = [worker_fault(worker) for worker in workers if worker.expected]
    return Health(tuple(filter(None, [*faults, storage_fault(database)])))


def healthy(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """The verdict of ``/healthz``."""
    return Health((*working(workers, database).reasons, *damage(database)))


def ready(workers: Iterable[WorkerView], database: DatabaseState) -> Health:
    """The verdict of ``/readyz``: not good if anything does not work, or a worker is stopping."""
    listed = list(workers)
    leaving = [
        f"{worker.name} is stopping" + _because(worker.reason)
        for worker in listed
        if worker.expected and worker.state == "stopping"
    ]
    return Health((*leaving, *working(listed, database).reasons))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
