"""Collects everything that the status server shows, at one moment, without changing anything."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ec_server.account.figures import REJECTED, queued
from ec_server.status.database_view import DatabaseState, DatabaseView
from ec_server.status.forgotten_devices import FILE_NAME, read_forgotten, without_forgotten
from ec_server.status.live_devices import LIVE_SUFFIX, DeviceStatus, join, read_live
from ec_server.status.worker_view import WorkerView, read_workers


@dataclass(frozen=True, slots=True)
class Account:
    """Where every received message is: ``received`` is exactly the sum of all the others."""

    received: int
    stored: int
    duplicate: int
    rejected: int
    queued: int
    spooled: int
    lost: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment: the workers' pages, each read once, the database's answer, and the devices."""

    now: float
    workers: tuple[WorkerView, ...]
    database: DatabaseState
    devices: tuple[DeviceStatus, ...]

    def total(self, figure: str) -> int:
        """A figure summed over all pages."""
        return sum(worker.figures.get(figure, 0) for worker in self.workers)

    def account(self) -> Account:
        """The account over all receivers, across their restarts."""
        return Account(
            received=self.total("received"),
            stored=self.total("stored"),
            duplicate=self.total("duplicate"),
            rejected=sum(map(self.total, REJECTED.values())),
            queued=sum(queued(w.figures) for w in self.workers if is_receiver(w)),
            spooled=self.total("spooled"),
            lost=self.total("lost"),
        )


class Observer:
    """Takes snapshots; used from the event loop of its ``DatabaseView``.

    Devices, of which there may be thousands, are joined again only if the database or a file has changed or a
    second has passed, so that three browsers cost little more than one.
    """

    def __init__(self, run_folder: Path, expected: tuple[str, ...], database: DatabaseView) -> None:
        self._run_folder, self._expected, self._database = run_folder, expected, database
        self._joined: tuple[DeviceStatus, ...] = ()
        self._joined_from: tuple[object, ...] = ()

    async def snapshot(self) -> Snapshot:
        """A new snapshot. Never raises: what cannot be read is reported in the snapshot."""
        database = await self._database.state()
        now = time.time()
        return Snapshot(
            now, read_workers(self._run_folder, self._expected), database, self._devices(database, now)
        )

    def _devices(self, database: DatabaseState, now: float) -> tuple[DeviceStatus, ...]:
        source = (database.devices, int(now), *map(_changed_ns, self._device_files()))
        if source[1:] != self._joined_from[1:] or source[0] is not self._joined_from[0]:
            joined = join(database.devices, read_live(self._run_folder, now))
            self._joined = tuple(without_forgotten(joined, read_forgotten(self._run_folder)))
            self._joined_from = source
        return self._joined

    def _device_files(self) -> list[Path]:
        return [*sorted(self._run_folder.glob(f"*{LIVE_SUFFIX}")), self._run_folder / FILE_NAME]


def _changed_ns(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, 0, 0
    return path.name, status.st_mtime_ns, status.st_ino


def is_receiver(worker: WorkerView) -> bool:
    """Whether the page is that of a receiver, which has an account."""
    return "stored" in worker.figures
