"""The synchronization process, which proves what is stored against the meters; also requests audits from it.

Started by ec_server_main.py, or alone: ``python sync_server.py [-c FILE]``. With ``--audit`` it asks the
running one to compare a time range again, from the stored rows, waits for the result and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER, SYNC_FIGURES, SYNC_NAME
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.engines import open_store
from ec_server.supervision.parent_pipe import watch_parent
from ec_server.synchronization import audit
from ec_server.synchronization.server import SyncServer
from utilities import log
from utilities.command_line import device_id, run, say
from utilities.errors import ConfigurationError, RetryableStorageError, StorageError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION
from utilities.kept_memory import keep_freed_memory
from utilities.private_files import make_files_private
from utilities.utc import MINUTE_S, parse_minute

EXIT_NOT_PROVEN = 1
EXIT_USAGE = 2
AUDIT_TIMEOUT_S = 300.0
GIVE_WAY = 5
"""Niceness above that of the receivers: live messages go before data that can be requested again."""
_STORE_AGAIN_S = 1.0
_SWITCH_S = 0.0005
"""The interpreter's switch interval, short so that connections are answered while threads work."""

_log = logging.getLogger("sync_server")


def main() -> int:
    """Read the command line and the configuration, then serve or request an audit; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.audit is None and (arguments.start or arguments.stop or arguments.json or arguments.timeout):
        parser.error("--from, --to, --json and --timeout need --audit")
    make_files_private()
    log.set_up(SYNC_NAME)
    try:
        settings = read_settings(arguments.file, os.environ)
        log.set_up(SYNC_NAME, logging.getLevelNamesMapping()[settings.log_level.upper()])
        if arguments.audit is not None:
            return run(partial(_audit, arguments, settings))
        directory = DeviceDirectory.read(settings.devices_file)
    except ConfigurationError as error:
        _log.error("%s", error)
        return EXIT_CONFIGURATION
    return _serve(settings, directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", dest="file", type=Path, metavar="FILE", help="configuration file")
    asking = parser.add_argument_group("audit")
    moment: dict[str, Any] = {"type": _minute, "metavar": "YYYYMMDDHHMM"}
    asking.add_argument(
        "--audit", type=device_id, metavar="DEVICE", help="compare this device again, print a report, and end"
    )
    asking.add_argument("--from", dest="start", help="first minute, UTC", **moment)
    asking.add_argument("--to", dest="stop", help="end of the range, not included", **moment)
    asking.add_argument("--json", action="store_true", help="print the report as JSON")
    patience = f"wait at most this long for the device ({AUDIT_TIMEOUT_S:g})"
    asking.add_argument("--timeout", type=_seconds, metavar="S", help=patience)
    return parser


def _minute(text: str) -> int:
    try:
        return parse_minute(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(text)
    return seconds


# --- serving ------------------------------------------------------------------------------


def _serve(settings: Settings, directory: DeviceDirectory) -> int:
    run_folder = settings.storage_path / RUN_FOLDER
    run_folder.mkdir(parents=True, exist_ok=True)
    page = WorkerPage.create(run_folder / f"{SYNC_NAME}.page", SYNC_FIGURES)
    page.beat()
    page.set_state("starting")
    _allow_many_connections()
    os.nice(GIVE_WAY)
    sys.setswitchinterval(_SWITCH_S)
    keep_freed_memory()
    try:
        return asyncio.run(_until_stopped(settings, directory, page))
    except (OSError, StorageError) as error:
        _log.error("%s", error)
        page.set_state("dead", str(error))
        return EXIT_CANNOT_BOOT


async def _until_stopped(settings: Settings, directory: DeviceDirectory, page: WorkerPage) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_parent(os.environ, partial(_stop_from_elsewhere, loop, stop))
    while not stop.is_set():
        try:
            await SyncServer(settings, directory, page, partial(open_store, settings)).run(stop)
        except RetryableStorageError as error:
            _log.warning("cannot open the database yet, trying again: %s", error)
            page.beat()
            page.set_state("starting", str(error))
            await _pause(stop)
    _log.info("ended")
    return 0


def _stop_from_elsewhere(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.call_soon_threadsafe(stop.set)


async def _pause(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), _STORE_AGAIN_S)
    except TimeoutError:
        return


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# --- asking for an audit --------------------------------------------------------------------


def _audit(arguments: argparse.Namespace, settings: Settings) -> int:
    start, stop = arguments.start, arguments.stop
    if start is None or stop is None or not 0 < stop - start <= audit.MAX_MINUTES * MINUTE_S:
        print("--audit needs --from and --to, from 1 minute to 31 days apart", file=sys.stderr)
        return EXIT_USAGE
    timeout_s = arguments.timeout or AUDIT_TIMEOUT_S
    try:
        report = audit.ask(settings.storage_path / RUN_FOLDER, arguments.audit, start, stop, timeout_s)
    except OSError as error:
        print(f"cannot ask: {error}; does the sync server use this storage.path?", file=sys.stderr)
        return EXIT_USAGE
    if report is None:
        print(
            f"no answer within {timeout_s:g} s: is the sync server running, "
            f"and is {arguments.audit} connected to it?",
            file=sys.stderr,
        )
        return EXIT_NOT_PROVEN
    say(json.dumps(report, indent=1) if arguments.json else "\n".join(audit.lines_for_people(report)))
    return 0 if audit.all_proven(report) else EXIT_NOT_PROVEN


if __name__ == "__main__":
    sys.exit(main())
