"""The writer process of a receiver, which starts it: ``python -m ec_server.ingest --worker N``.

It ends when the receiver has closed the ring and everything in it is settled or, if the receiver has died,
after the current group. It ignores signals meant for the receiver (from a terminal or systemd), as the ring
tells it when to end.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.account.figures import RECEIVER_FIGURES, RUN_FOLDER, receiver_name
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.admission import Admission
from ec_server.ingest.intake_ring import Taker
from ec_server.ingest.message_limits import limits_of
from ec_server.ingest.quarantine import FILE_NAME, MEGABYTE, Quarantine
from ec_server.ingest.ring_file import RingError, is_usable, ring_path, write_off
from ec_server.ingest.spool import SPOOL_FOLDER, Spool
from ec_server.ingest.spooling import LeftSpool
from ec_server.ingest.troubles import Troubles
from ec_server.ingest.watched_calls import WatchedCalls
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store
from utilities import log
from utilities.errors import ConfigurationError, EcServerError, RetryableStorageError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION, EXIT_FAILED
from utilities.kept_memory import keep_freed_memory
from utilities.private_files import make_files_private

_STORE_AGAIN_S = 0.5
_OBJECTS_A_COLLECTION = 50_000

_log = logging.getLogger("writer")


def main() -> int:
    """Read the command line and the configuration, write until the ring is done; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", dest="file", type=Path, metavar="FILE", help="configuration file")
    parser.add_argument("--worker", type=int, required=True, metavar="NUMBER", help="number of the receiver")
    parser.add_argument("--drain", action="store_true", help="store what is in the ring, then end")
    parser.add_argument(
        "--ring", type=Path, help="the receiver's ring, to report errors of the configuration in"
    )
    arguments = parser.parse_args()
    name = receiver_name(arguments.worker)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    make_files_private()
    log.set_up(f"{name}/writer")
    try:
        settings = read_settings(arguments.file, os.environ)
        log.set_up(f"{name}/writer", logging.getLevelNamesMapping()[settings.log_level.upper()])
    except ConfigurationError as error:
        _log.error("%s", error)
        if arguments.ring is not None:
            _tell(arguments.ring, " ".join(str(error).split()))
        return EXIT_CONFIGURATION
    run_folder = settings.storage_path / RUN_FOLDER
    lock = os.open(run_folder / f"{name}.writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a previous writer may still be committing a group
    page = WorkerPage.create(run_folder / f"{name}.page", RECEIVER_FIGURES)
    ring = ring_path(run_folder, name)
    if arguments.drain and not is_usable(ring, page):
        write_off(ring, page, "its header is damaged, or of another boot of the machine")
        return 0
    taker = Taker(ring, page, None if arguments.drain else sys.stdin.fileno())
    if arguments.drain:
        taker.expect_no_more()
    try:
        return _write(settings, arguments.worker, page, taker)
    except RingError as error:
        _log.error("%s", error)
        if arguments.drain:
            write_off(ring, page, str(error))
        else:
            taker.tell_damage(str(error))
        return EXIT_FAILED
    except EcServerError as error:
        taker.beat(str(error))
        _log.error("%s", error)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_CANNOT_BOOT


def _tell(ring: Path, trouble: str) -> None:
    """Tell the SIP process, through the ring, why this one ends; for errors of the configuration."""
    with suppress(OSError, ValueError):
        Taker(ring, WorkerPage.open(ring.with_suffix(".page"))).beat(trouble)


def _write(settings: Settings, number: int, page: WorkerPage, taker: Taker) -> int:
    directory = DeviceDirectory.read(settings.devices_file)
    spool = open_spool(settings, number)
    first = _first_store(settings, taker, may_be_away=spool is not None)
    stores = [first] if first is not None else []
    again = partial(open_store, settings)
    writer = Writer(
        writer_settings(settings, number),
        taker,
        page,
        lambda: stores.pop() if stores else again(),
        Admission(directory),
        Quarantine(settings.storage_path / FILE_NAME, settings.storage_quarantine_mb * MEGABYTE),
        taker.beat,
        spool,
        left_spools(settings) if number == 0 and spool is not None else (),
    )
    _keep_memory()
    taker.set_ready()
    writer.run()
    left = len(taker)
    if left and taker.closed and not taker.parent_is_gone:
        _log.warning("ended with %d messages in the ring, which the next start stores", left)
    return 0


def _keep_memory() -> None:
    """Keep the memory of each group for the next one, and do not search it for cycles: batches have none."""
    gc.freeze()
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    keep_freed_memory()


def _first_store(settings: Settings, taker: Taker, *, may_be_away: bool) -> Store | None:
    """Open the database; waits until it is available, unless messages can wait in a spool."""
    calls = WatchedCalls(taker.beat, Troubles(taker.beat))
    opened: list[Store] = []
    while not taker.closed:
        try:
            calls.run(lambda: opened.append(open_store(settings)))
            return opened[0]
        except RetryableStorageError as error:
            _log.warning("cannot open the database yet, trying again: %s", error)
            taker.beat(str(error))
            if may_be_away:
                return None
            time.sleep(_STORE_AGAIN_S)
    return None


def open_spool(settings: Settings, number: int) -> Spool | None:
    """This worker's spool, for an engine that may be unavailable; None for the embedded one."""
    if settings.storage_engine == "sqlite":
        return None
    path = settings.storage_path / SPOOL_FOLDER / f"{receiver_name(number)}.sqlite"
    return Spool(path, settings.storage_spool_mb * MEGABYTE)


def left_spools(settings: Settings) -> list[LeftSpool]:
    """The spools of workers that are no longer configured; the first worker drains them."""
    names = {receiver_name(n) for n in range(settings.sip_receivers)}
    return [
        LeftSpool(path, settings.storage_path / RUN_FOLDER, settings.storage_spool_mb * MEGABYTE)
        for path in sorted((settings.storage_path / SPOOL_FOLDER).glob("receiver-*.sqlite"))
        if path.stem not in names
    ]


def writer_settings(settings: Settings, number: int) -> WriterSettings:
    """The options for committing."""
    return WriterSettings(
        receiver_name(number),
        settings.storage_path / RUN_FOLDER,
        limits_of(settings),
        settings.ingest_commit_batches,
        settings.ingest_commit_ms,
    )


if __name__ == "__main__":
    sys.exit(main())
