"""A receiver: accepts SIP messages and stores them; started by ec_server_main.py, or alone.

It consists of two processes. This one serves the SIP port and puts messages into the ring. The writer, which
it starts, takes them from there and stores them in the database. Neither waits for the other's interpreter,
and the ring survives both, so that the death of either loses no message that was counted.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.account.figures import RECEIVER_FIGURES, RUN_FOLDER, receiver_name
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.intake_ring import IntakeRing
from ec_server.ingest.message_limits import limits_of, valid_within
from ec_server.ingest.receiver_lock import lock_receiver
from ec_server.ingest.ring_file import ring_path
from ec_server.ingest.writer_process import WriterProcess
from ec_server.supervision.parent_pipe import watch_parent
from utilities import log
from utilities.errors import ConfigurationError, EcServerError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION, EXIT_FAILED
from utilities.private_files import make_files_private
from utilities.sip_config import Senders, SipOptions, SipReceiver
from utilities.sip_registration import Registration
from utilities.sip_tls import TlsFiles

_FULL_RING_AT_STOP_S = 3.0
_DRAIN_S = 10.0
_WRITER_BEHIND_S = 0.7
_ORDERS_STORES = frozenset({"x86_64", "amd64", "i686", "i386"})

_log = logging.getLogger("data_receiver")


def main() -> int:
    """Read the command line and the configuration, then run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", dest="file", type=Path, help="configuration file")
    parser.add_argument(
        "--worker", type=int, default=0, metavar="NUMBER", help="number of this receiver, from 0"
    )
    arguments = parser.parse_args()
    name = receiver_name(arguments.worker)
    make_files_private()
    log.set_up(name)
    try:
        settings = read_settings(arguments.file, os.environ)
    except ConfigurationError as error:
        _log.error("%s", error)
        return EXIT_CONFIGURATION
    log.set_up(name, logging.getLevelNamesMapping()[settings.log_level.upper()])
    if fault := processor_fault(platform.machine()):
        _log.error("%s", fault)
        return EXIT_CONFIGURATION
    try:
        receiver = Receiver(settings, arguments.worker, arguments.file)
    except OSError as error:
        _log.error("storage.path %s cannot be used: %s", settings.storage_path, error)
        return EXIT_CONFIGURATION
    except EcServerError as error:
        _log.error("%s", error)
        return EXIT_CANNOT_BOOT
    return receiver.run()


def processor_fault(machine: str) -> str:
    """Why a receiver cannot run on this processor; "" if it can.

    One process reads the ring and the pages while another writes them, without a lock, so stores to memory
    must become visible in their order. x86 guarantees that; others, such as aarch64, do not.
    """
    if machine.lower() in _ORDERS_STORES:
        return ""
    return (
        f"processor {machine}: the queue between SIP process and writer needs one that keeps the order of "
        "stores to memory; run the server on x86-64"
    )


class Receiver:
    """The SIP process: SIP port, ring, writer process, and the page for launcher and status server."""

    def __init__(self, settings: Settings, number: int, configuration: Path | None) -> None:
        """Raises OSError if the run folder cannot be used, EcServerError if this receiver runs already."""
        run_folder, name = settings.storage_path / RUN_FOLDER, receiver_name(number)
        run_folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_receiver(run_folder, name)
        self._page = WorkerPage.create(run_folder / f"{name}.page", RECEIVER_FIGURES)
        self._ring = IntakeRing(
            ring_path(run_folder, name), self._page, settings.ingest_queue_batches, self._while_full
        )
        self._writer = WriterProcess(self._ring, number, configuration)
        self._sip = SipReceiver(sip_options(settings, number), self._ring.put, _senders(settings))
        self._port_shown = (self._page.figures()["sip_connections"], 0, 0, 0)  # from a former process
        self._stop = threading.Event()
        self._stop_s = 0.0
        self._shown = ""

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or the launcher's death; returns the exit code."""
        self._page.beat()
        self._page.set_state("starting")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())
        watch_parent(os.environ, self._ask_to_stop)
        try:
            self._start()
        except EcServerError as error:
            return self._refuse(error)
        if not self._stop.is_set():
            self._show(self._writer.trouble())
            self._sip.run(self._stop.is_set, self._tick)
        return self._end()

    def _start(self) -> None:
        """Start the writer, then listen, so that messages can be stored. Returns early if asked to stop.

        A receiver that replaces one that died does not wait long for its writer, as senders are waiting: the
        ring holds what arrives.
        """
        self._writer.start()
        until_s = time.monotonic() + (_WRITER_BEHIND_S if len(self._ring) else float("inf"))
        while not self._stop.is_set() and not self._ring.writer_is_ready and time.monotonic() < until_s:
            self._page.beat()
            if refusal := self._writer.refusal():
                raise refusal
            if self._ring.trouble:
                self._page.set_state("starting", self._ring.trouble)
            self._writer.look_after()
            time.sleep(0.01)
        if not self._stop.is_set():
            self._sip.start()

    def _refuse(self, error: EcServerError) -> int:
        """Report in the log and on the page why the start failed."""
        _log.error("%s", error)
        self._page.set_state("dead", str(error))
        self._ring.close()
        self._writer.end(_DRAIN_S, self._page.beat)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_CANNOT_BOOT

    # --- between polls ----------------------------------------------------------------------

    def _tick(self) -> None:
        """Heartbeat while both processes are alive; the writer's troubles are reported as this worker's."""
        self._page.beat()
        self._count_port()
        self._writer.look_after()
        if (trouble := self._writer.trouble()) != self._shown and not self._stop.is_set():
            self._show(trouble)
        if self._ring.is_damaged:
            self._ask_to_stop()  # the next start sets the ring aside

    def _count_port(self) -> None:
        """Add what has happened at the SIP port since the last call to the page."""
        now = self._sip.figures
        shown = (now.connections, now.evicted, now.refused, now.dropped)
        if shown != self._port_shown:
            self._page.add_port_figures([new - old for new, old in zip(shown, self._port_shown)])
            self._port_shown = shown

    def _while_full(self) -> None:
        """Called while the SIP port waits for room in the ring; after a stop request, not for long."""
        self._tick()
        if self._stop.is_set() and time.monotonic() - self._stop_s > _FULL_RING_AT_STOP_S:
            self._ring.close()

    def _show(self, trouble: str) -> None:
        self._shown = trouble
        state = "degraded" if trouble else "ready"
        self._page.set_state(state, trouble)
        _log.info("%s%s", state, f": {trouble}" if trouble else "")

    def _ask_to_stop(self) -> None:
        if not self._stop.is_set():
            self._stop_s = time.monotonic()
            self._stop.set()

    # --- end --------------------------------------------------------------------------------

    def _end(self) -> int:
        """Stop receiving, then let the writer settle the ring, each within its deadline."""
        self._page.set_state("stopping")
        self._sip.stop()
        self._ring.close()
        ended = self._writer.end(_DRAIN_S - (time.monotonic() - self._stop_s), self._page.beat)
        left = len(self._ring)
        if left or not ended:
            why = self._ring.trouble or "the writer did not end in time"
            _log.error("ended with %d messages in the ring, which the next start stores: %s", left, why)
            return EXIT_FAILED
        _log.info("drained and ended")
        return 0


def _senders(settings: Settings) -> Senders:
    """Who may send. If the file cannot be read, the writer refuses to start."""
    try:
        directory = DeviceDirectory.read(settings.devices_file)
    except ConfigurationError:
        return Senders(lambda _device_id, _ip: False, lambda _ip: False)
    return Senders(
        lambda device_id, ip: directory.admits(device_id, ip) is None,
        directory.admits_some,
        valid_within(limits_of(settings)),
    )


def sip_options(settings: Settings, number: int) -> SipOptions:
    """Where receiver ``number`` listens; only the first one registers, for all of them."""
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


if __name__ == "__main__":
    sys.exit(main())
