"""One receiver process: takes SIP messages and stores them; started by ec_server_main.py, or alone."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server import log
from ec_server.errors import ConfigurationError, EcServerError, RetryableStorageError
from ec_server.ingest import message_body
from ec_server.ingest.admission import Admission
from ec_server.ingest.intake_queue import IntakeQueue
from ec_server.ingest.quarantine import FILE_NAME, MEGABYTE, Quarantine
from ec_server.ingest.spool import SPOOL_FOLDER, Spool, adopt
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.status.figures import RECEIVER_FIGURES, RUN_FOLDER, receiver_name
from ec_server.status.worker_page import WorkerPage
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store
from ec_server.supervision.parent_pipe import watch_parent
from ec_server.supervision.restart_policy import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION
from ec_server.utc import DAY_S
from utilities.sip_config import Registration, SipOptions, SipReceiver, TlsFiles

EXIT_FAILED = 1
"""Told to stop, some messages could not be stored in time; or the database is away; or a fault of ours."""

_WRITER_STUCK_S = 15.0
_STORE_AGAIN_S = 1.0
_FULL_QUEUE_AT_STOP_S = 3.0
_DRAIN_S = 9.0
_ABANDON_S = 1.5

_EXIT_CODES = (
    (ConfigurationError, EXIT_CONFIGURATION),
    (RetryableStorageError, EXIT_FAILED),
    (EcServerError, EXIT_CANNOT_BOOT),
)

_log = logging.getLogger("data_receiver")


def main() -> int:
    """Read the command line and the configuration, then run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", dest="file", type=Path, help="configuration file")
    parser.add_argument(
        "--worker", type=int, default=0, metavar="NUMBER", help="which receiver it is, from 0"
    )
    arguments = parser.parse_args()
    name = receiver_name(arguments.worker)
    log.set_up(name)
    try:
        settings = read_settings(arguments.file, os.environ)
        log.set_up(name, logging.getLevelNamesMapping()[settings.log_level.upper()])
        directory = DeviceDirectory.read(settings.devices_file)
    except ConfigurationError as error:
        _log.error("%s", error)
        return EXIT_CONFIGURATION
    run_folder = settings.storage_path / RUN_FOLDER
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        page = WorkerPage.create(run_folder / f"{name}.page", RECEIVER_FIGURES)
    except OSError as error:
        _log.error("storage.path %s is not usable: %s", settings.storage_path, error)
        return EXIT_CONFIGURATION
    try:
        receiver = Receiver(settings, arguments.worker, page, directory)
    except EcServerError as error:
        return refuse(error, page)
    return receiver.run()


class Receiver:
    """The process: SIP in the main thread, the writer in another, the page between them and the launcher."""

    def __init__(self, settings: Settings, number: int, page: WorkerPage, directory: DeviceDirectory) -> None:
        self._page = page
        self._stop = threading.Event()
        self._stop_s = 0.0
        self._trouble = self._shown_trouble = ""
        self._open_store: Callable[[], Store] = partial(open_store, settings)
        spool = open_spool(settings, number)
        self._may_start_without_store = spool is not None
        self._queue = IntakeQueue(settings.ingest_queue_batches, self._while_full, 0.5)
        self._sip = SipReceiver(sip_options(settings, number), page.count_received, self._queue.put)
        self._writer = Writer(
            writer_settings(settings, number),
            self._queue,
            page,
            self._hand_over_store,
            Admission(directory),
            Quarantine(settings.storage_path / FILE_NAME, settings.storage_quarantine_mb * MEGABYTE),
            self._note_trouble,
            spool,
        )
        self._first_store: Store | None = None
        self._thread = threading.Thread(target=self._writer.run, name="writer", daemon=True)

    def run(self) -> int:
        """Until SIGTERM, SIGINT or the launcher's death; the exit code."""
        self._page.beat()
        self._page.set_state("starting")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())
        watch_parent(os.environ, self._ask_to_stop)
        try:
            self._start()
        except EcServerError as error:
            if self._first_store is not None:
                self._first_store.close()
            return refuse(error, self._page)
        if not self._stop.is_set():
            self._show_state("ready")
            self._sip.run(self._is_over, self._tick)
        return self._end()

    # --- start ----------------------------------------------------------------------------

    def _start(self) -> None:
        """Open the store, then listen: what comes in can be written. Returns early where told to stop."""
        self._open_first_store()
        if not self._stop.is_set():
            self._sip.start()
            self._thread.start()

    def _open_first_store(self) -> None:
        """Wait for a database that is away, unless what comes in can wait in a spool."""
        while not self._stop.is_set() and self._first_store is None:
            self._page.beat()
            try:
                self._first_store = self._open_store()
            except RetryableStorageError as error:
                _log.warning("cannot open the database yet: %s", error)
                if self._may_start_without_store:
                    return
                self._page.set_state("starting", str(error))
                self._stop.wait(_STORE_AGAIN_S)

    def _hand_over_store(self) -> Store:
        store, self._first_store = self._first_store, None
        return store or self._open_store()

    # --- between polls, in the main thread --------------------------------------------------

    def _tick(self) -> None:
        """Beat only while both threads go round."""
        if time.monotonic() - self._writer.tick_s < _WRITER_STUCK_S:
            self._page.beat()
        if self._trouble != self._shown_trouble and not self._stop.is_set():
            self._show_state("degraded" if self._trouble else "ready")

    def _while_full(self) -> None:
        """The SIP thread waits for room in the queue; when told to stop, not for long."""
        self._tick()
        if self._stop.is_set() and time.monotonic() - self._stop_s > _FULL_QUEUE_AT_STOP_S:
            self._queue.close()

    def _is_over(self) -> bool:
        return self._stop.is_set() or not self._thread.is_alive()

    def _show_state(self, state: str) -> None:
        self._shown_trouble = self._trouble
        self._page.set_state(state, self._shown_trouble)
        _log.info("%s%s", state, f": {self._shown_trouble}" if self._shown_trouble else "")

    # --- from other threads and signals -----------------------------------------------------

    def _note_trouble(self, trouble: str) -> None:
        self._trouble = trouble

    def _ask_to_stop(self) -> None:
        if not self._stop.is_set():
            self._stop_s = time.monotonic()
            self._stop.set()

    # --- end ------------------------------------------------------------------------------

    def _end(self) -> int:
        """Stop taking, drain, commit: each within its deadline."""
        asked = self._stop.is_set()
        self._page.set_state("stopping")
        self._sip.stop()
        self._queue.close()
        if self._thread.ident is None:
            return self._never_began()
        if not self._writer_ends(_DRAIN_S - (time.monotonic() - self._stop_s)):
            self._writer.abandon()
            self._writer_ends(_ABANDON_S)
        left = len(self._queue)
        if self._thread.is_alive() or left or not asked:
            _log.error(
                "ended with %d messages left behind: %s", left, self._trouble or "the writer ended early"
            )
            return EXIT_FAILED
        _log.info("drained and ended")
        return 0

    def _never_began(self) -> int:
        if self._first_store is not None:
            self._first_store.close()
        return 0

    def _writer_ends(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._page.beat()
            self._thread.join(0.2)
        return not self._thread.is_alive()


def refuse(error: EcServerError, page: WorkerPage) -> int:
    """Say, in the log and on the page, why there is no start; the exit code."""
    _log.error("%s", error)
    page.set_state("dead", str(error))
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def sip_options(settings: Settings, number: int) -> SipOptions:
    """What receiver ``number`` listens to; the first one alone registers, for all of them."""
    tls = None
    if settings.sip_tls_certificate and settings.sip_tls_key:
        tls = TlsFiles(settings.sip_tls_certificate, settings.sip_tls_key, settings.sip_tls_ca)
    registration = None
    if settings.sip_registrar and number == 0:
        registration = Registration(
            settings.sip_registrar, settings.sip_registrar_user, settings.sip_registrar_password
        )
    return SipOptions(
        settings.sip_public_addr,
        settings.sip_bind,
        settings.sip_port,
        settings.sip_transports,
        settings.sip_tls_port,
        tls,
        registration,
    )


def open_spool(settings: Settings, number: int) -> Spool | None:
    """This worker's spool, for an engine that may be away; none for the embedded one.

    The first worker takes over what is left of workers that are no longer configured.
    """
    if settings.storage_engine == "sqlite":
        return None
    folder = settings.storage_path / SPOOL_FOLDER
    own = Spool(folder / f"{receiver_name(number)}.sqlite", settings.storage_spool_mb * MEGABYTE)
    if number == 0:
        names = {receiver_name(n) for n in range(settings.sip_receivers)}
        for path in sorted(folder.glob("receiver-*.sqlite")):
            if path.stem not in names:
                adopt(path, own, settings.storage_path / RUN_FOLDER / f"{path.stem}.page")
    return own


def writer_settings(settings: Settings, number: int) -> WriterSettings:
    """What the configuration says of committing. What retention would remove at once is not taken."""
    max_back_days = settings.ingest_max_back_days
    if settings.storage_retention_days:
        max_back_days = min(max_back_days, settings.storage_retention_days)
    limits = message_body.Limits(
        int(settings.ingest_max_ahead_days * DAY_S),
        int(max_back_days * DAY_S),
        settings.ingest_max_samples,
    )
    return WriterSettings(
        receiver_name(number),
        settings.storage_path / RUN_FOLDER,
        limits,
        settings.ingest_commit_batches,
        settings.ingest_commit_ms,
    )


if __name__ == "__main__":
    sys.exit(main())
