"""The status process: ``python -m ec_server.status [-c FILE]``, started by the launcher or alone."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import tomllib
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER, STATUS_NAME
from ec_server.account.worker_page import WorkerPage
from ec_server.status.access import serves_samples
from ec_server.status.database_view import DatabaseState, DatabaseView
from ec_server.status.history import History
from ec_server.status.http_server import listen, serve
from ec_server.status.site import Site
from ec_server.status.snapshot import Observer, Snapshot
from ec_server.status.streamed_answer import StoredData
from ec_server.status.verdict import allowed_lag_s
from ec_server.status.web import create_app
from ec_server.status.worker_view import PAGE_SUFFIX, expected_workers, read_workers
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store
from utilities import log
from utilities.addresses import from_here, host_port
from utilities.errors import ConfigurationError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION
from utilities.private_files import make_files_private

_ROOT = Path(__file__).parents[2]

_log = logging.getLogger(__name__)


def main() -> int:
    """Serve until asked to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ec_server.status", description=__doc__)
    parser.add_argument("-c", dest="file", type=Path, help="configuration file")
    make_files_private()
    log.set_up(STATUS_NAME)
    try:
        settings = read_settings(parser.parse_args().file, os.environ)
    except ConfigurationError as error:
        _log.error("%s", error)
        return EXIT_CONFIGURATION
    if settings.status_port == 0:
        _log.info("status.port is 0: no status page")
        return 0
    return _run(settings)


def _run(settings: Settings) -> int:
    run_folder = settings.storage_path / RUN_FOLDER
    run_folder.mkdir(parents=True, exist_ok=True)
    page = WorkerPage.create(run_folder / f"{STATUS_NAME}{PAGE_SUFFIX}", ())
    page.beat()
    page.set_state("starting")
    try:
        listener = listen(settings.status_ip, settings.status_port)
    except OSError as error:
        reason = (
            f"cannot listen on status.ip:status.port {settings.status_ip}:{settings.status_port}: {error}"
        )
        _log.error("%s", reason)
        page.set_state("dead", reason)
        return EXIT_CANNOT_BOOT

    def open_read_only() -> Store:
        return open_store(settings, read_only=True)

    database = DatabaseView(open_read_only)
    expected = (*expected_workers(settings.sip_receivers), STATUS_NAME)
    data = StoredData(open_read_only)
    history = History()

    def beat() -> None:
        page.beat()
        if history.due(time.monotonic()):
            now = Snapshot(time.time(), read_workers(run_folder, expected), DatabaseState(), ())
            history.note(time.monotonic(), now.account())

    app = create_app(Observer(run_folder, expected, database), data, _site(settings), history)
    page.set_state("ready")
    _log.info("status page on http://%s/", host_port(*listener.getsockname()[:2]))
    serve(app, listener, beat, until_eof=os.environ.get("EC_SUPERVISED") == "1")
    page.set_state("stopping")
    data.close()
    database.close()
    return 0


def _site(settings: Settings) -> Site:
    rules = DeviceDirectory.read(settings.devices_file).rules
    return Site(
        _version(),
        allowed_lag_s(settings.sync_syncfreq * 60, settings.sync_grace),
        settings.storage_path / RUN_FOLDER,
        first_meter=first_meter(settings),
        names={rule.device_id: rule.name for rule in rules if rule.name},
        token=settings.status_token,
        serve_samples=serves_samples(settings.status_ip, settings.status_token),
        max_device_metrics=settings.status_max_device_metrics,
        queue_capacity=settings.ingest_queue_batches * settings.sip_receivers,
    )


def first_meter(settings: Settings) -> str:
    """The command that connects a meter on this machine, with the transports that the server has."""
    transport = next(t for t in ("tcp", "udp", "tls") if t in settings.sip_transports)
    port = settings.sip_tls_port if transport == "tls" else settings.sip_port
    words = ["python -m reference_client --server", host_port(from_here(settings.sip_bind), port)]
    words += ["--transport", transport] if transport != "tcp" else []  # the meter's default
    words += ["--sync", host_port(from_here(settings.sync_ip), settings.sync_port)]
    words += ["--sync-tls"] if settings.sync_tls_certificate else []
    return " ".join(words)


def _version() -> str:
    try:
        return str(tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
