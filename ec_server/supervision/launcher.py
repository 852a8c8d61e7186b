"""Starts the server, in steps, each of which checks a precondition.

lock       no other server uses storage.path, and no process of a former run is left
ports      all are available
former run its pages are marked as dead; rings that no receiver uses any more are drained
workers    started, kept running, stopped (supervisor.py)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from configuration.check import warnings
from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER
from ec_server.supervision.former_run import drain_left_rings, mark_dead
from ec_server.supervision.plan import child_environment, server_plans, up_line
from ec_server.supervision.port_probe import probe, server_ports
from ec_server.supervision.run_lock import RunLock
from ec_server.supervision.sd_notify import ServiceState
from ec_server.supervision.stop_signals import StopSignals
from ec_server.supervision.supervisor import Supervisor
from utilities.errors import ConfigurationError
from utilities.exit_codes import EXIT_CONFIGURATION

_log = logging.getLogger(__name__)


def launch(settings: Settings, config: Path | None, root: Path, environ: Mapping[str, str]) -> int:
    """Run the whole server until it is asked to stop; returns the exit code of ec_server_main.py."""
    with StopSignals() as signals, ExitStack() as held:
        try:
            lock = _sole_user(settings, signals, held)
            for warning in warnings(settings):
                _log.warning("%s", warning)
            probe(server_ports(settings))
            supervisor = _ready_to_run(settings, config, root, environ, signals, lock)
        except ConfigurationError as error:
            return 0 if signals.requests else refuse(str(error))
        except OSError as error:
            return refuse(f"storage.path {str(settings.storage_path)!r} cannot be used: {error}")
        return supervisor.run()


def _sole_user(settings: Settings, signals: StopSignals, held: ExitStack) -> RunLock:
    folder = settings.storage_path / RUN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock.acquire(folder / "lock", signals.pause)
    held.callback(lock.release)
    return lock


def _ready_to_run(
    settings: Settings,
    config: Path | None,
    root: Path,
    environ: Mapping[str, str],
    signals: StopSignals,
    lock: RunLock,
) -> Supervisor:
    mark_dead(settings.storage_path / RUN_FOLDER)
    drain_left_rings(settings, config, child_environment(environ, root))
    return Supervisor(
        server_plans(settings, config, root),
        child_environment(environ, root),
        signals,
        up_line=up_line(settings),
        keep_open=(lock.descriptor,),
        service=ServiceState.of(environ, os.getpid()),
    )


def refuse(message: str) -> int:
    """Log, line by line, why the start failed; returns the exit code."""
    for line in message.splitlines():
        _log.critical("%s", line)
    return EXIT_CONFIGURATION
