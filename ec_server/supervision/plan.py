"""The processes that the server consists of, and how each is started; pure.

Each is a program of its own, started without fork, so that no thread, socket or database connection is ever
inherited from another process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configuration.settings import Settings
from ec_server.account.figures import (
    RECEIVER_FIGURES,
    RUN_FOLDER,
    STATUS_NAME,
    SYNC_FIGURES,
    SYNC_NAME,
    receiver_name,
)
from ec_server.supervision.sd_notify import WITHOUT
from utilities.addresses import host_port


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """One worker: its fixed name, and the program that does its work."""

    name: str
    command: tuple[str, ...]
    page: Path
    figures: tuple[str, ...]
    receives: bool = False
    """Whether it receives messages, and so is stopped first."""


def server_plans(settings: Settings, config: Path | None, root: Path) -> tuple[ChildPlan, ...]:
    """The server's workers. ``config`` is passed on as it was given; ``root`` is the project's folder."""
    run = settings.storage_path / RUN_FOLDER
    with_config = () if config is None else ("-c", str(config))

    def plan(name: str, program: tuple[str, ...], figures: tuple[str, ...], receives: bool) -> ChildPlan:
        command = (sys.executable, "-u", *program, *with_config)
        return ChildPlan(name, command, run / f"{name}.page", figures, receives)

    plans = [
        plan(receiver_name(n), (str(root / "data_receiver.py"), "--worker", str(n)), RECEIVER_FIGURES, True)
        for n in range(settings.sip_receivers)
    ]
    plans.append(plan(SYNC_NAME, (str(root / "sync_server.py"),), SYNC_FIGURES, False))
    if settings.status_port:
        plans.append(plan(STATUS_NAME, ("-m", "ec_server.status"), (), False))
    return tuple(plans)


def child_environment(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """The environment of the workers: the launcher's, a mark that they are supervised, and PYTHONPATH."""
    path = os.pathsep.join(filter(None, (str(root), environ.get("PYTHONPATH", ""))))
    inherited = {name: value for name, value in environ.items() if name not in WITHOUT}
    return {**inherited, "EC_SUPERVISED": "1", "PYTHONPATH": path}


def up_line(settings: Settings) -> str:
    """One line for the log: at which addresses the server, now up, is reached, and where it stores."""
    transports = ",".join(settings.sip_transports)
    stored = f"{settings.storage_engine} in {settings.storage_path}"
    if settings.storage_engine == "cassandra":
        hosts = ",".join(settings.cassandra_host)
        stored = f"cassandra at {hosts}:{settings.cassandra_port}, run folder in {settings.storage_path}"
    status = (
        f"http://{host_port(settings.status_ip, settings.status_port)}/" if settings.status_port else "off"
    )
    return (
        f"up: SIP {transports} on {host_port(settings.sip_bind, settings.sip_port)} "
        f"({settings.sip_receivers} receivers), sync on {host_port(settings.sync_ip, settings.sync_port)}, "
        f"stores to {stored}, status {status}"
    )
