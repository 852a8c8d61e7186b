"""Cleans up after a former run: marks its pages as dead, and drains rings that no receiver uses any more.

The launcher calls it at its start, when no worker is alive. A configured receiver continues with its own
ring. The ring of one that is no longer configured (``sip.receivers`` was lowered) is drained by a separate
writer process.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER, queued, receiver_name
from ec_server.account.worker_page import WorkerPage

_DRAIN_S = 60.0

_log = logging.getLogger(__name__)


def mark_dead(run_folder: Path) -> None:
    """Mark every worker's page as that of a dead process. A file that is not a page is logged and left alone.

    Pages of an earlier version are converted to the present layout first.
    """
    for path in sorted(run_folder.glob("*.page")):
        try:
            WorkerPage.renew(path)
            page = WorkerPage.open(path)
            if page.state()[0] != "dead":
                page.set_state("dead", "ended with a former run")
            page.close()
        except (OSError, ValueError, KeyError, IndexError) as error:
            _log.warning("%s is not a worker page, its counters are left as they are: %s", path, error)


def drain_left_rings(settings: Settings, config: Path | None, environ: Mapping[str, str]) -> None:
    """Store what is in the rings of receivers that are no longer configured; on failure it stays there."""
    run_folder = settings.storage_path / RUN_FOLDER
    configured = {receiver_name(n) for n in range(settings.sip_receivers)}
    for ring in sorted(run_folder.glob("receiver-*.ring")):
        if ring.stem not in configured and _waiting(ring.with_suffix(".page")):
            _drain(ring.stem, config, environ)


def _waiting(path: Path) -> int:
    try:
        page = WorkerPage.open(path)
    except (OSError, ValueError):
        return 0
    try:
        return queued(page.figures())
    finally:
        page.close()


def _drain(name: str, config: Path | None, environ: Mapping[str, str]) -> None:
    number = name.removeprefix("receiver-")
    command = [sys.executable, "-u", "-m", "ec_server.ingest", "--drain", "--worker", number]
    command += ["-c", str(config)] if config is not None else []
    try:
        subprocess.run(command, env=dict(environ), stdin=subprocess.DEVNULL, timeout=_DRAIN_S, check=True)
        _log.info("%s is no longer configured; stored what was in its ring", name)
    except subprocess.SubprocessError as error:
        _log.error("%s is no longer configured, and its ring could not be drained: %s", name, error)
