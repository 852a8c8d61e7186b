"""Runs the whole Energy Consumption Server: receivers, synchronization, status page.

Starts each as a separate process, keeps them running, and stops them in order on SIGTERM or SIGINT.
docs/operations.md explains its log lines, signals and exit codes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from configuration.check import check, printable
from configuration.print_config import print_config
from configuration.properties_reader import read_settings
from ec_server.supervision.launcher import launch, refuse
from utilities import log
from utilities.command_line import device_id, run, say
from utilities.errors import ConfigurationError
from utilities.exit_codes import EXIT_CONFIGURATION
from utilities.private_files import make_files_private

ROOT = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code: 0 ended as requested, 1 not cleanly, 2 cannot start."""
    make_files_private()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json and options.command is not _status:
        parser.error("--json needs --status")
    if options.command is not None:
        return run(partial(options.command, options))
    log.set_up("launcher")
    try:
        settings = read_settings(options.config, os.environ)
    except ConfigurationError as error:
        return refuse(str(error))
    logging.getLogger().setLevel(settings.log_level.upper())
    return launch(settings, options.config, ROOT, os.environ)


# --- commands that end by themselves; each returns its exit code -------------------------------


def _check_config(options: argparse.Namespace) -> int:
    return _say(*check(options.config, os.environ))


def _print_config(options: argparse.Namespace) -> int:
    return _say(*print_config(options.config, os.environ))


def _version(_options: argparse.Namespace) -> int:
    import tomllib  # noqa: PLC0415 (for this alone)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return _say(0, f"{project['name']} {project['version']}")


def _status(options: argparse.Namespace) -> int:
    from ec_server.status.status_command import report_status  # noqa: PLC0415 (for this alone)

    try:
        settings = read_settings(options.config, os.environ)
    except ConfigurationError as error:
        return _say(EXIT_CONFIGURATION, printable(str(error)))
    code, text = report_status(settings, as_json=options.json)
    return _say(code, text, to_stdout=code != EXIT_CONFIGURATION or options.json)


def _forget(device: str, options: argparse.Namespace) -> int:
    from ec_server.status.status_command import forget_device  # noqa: PLC0415 (for this alone)

    try:
        settings = read_settings(options.config, os.environ)
    except ConfigurationError as error:
        return _say(EXIT_CONFIGURATION, printable(str(error)))
    return _say(*forget_device(settings, device))


def _say(code: int, text: str, *, to_stdout: bool = False) -> int:
    if to_stdout or not code:
        say(text)
    else:
        print(text, file=sys.stderr)
    return code


# --- the command line -------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Receives electricity meter data over SIP, stores it, and proves that it is complete.",
        epilog="Without a command the server runs until SIGTERM or SIGINT. Exit codes: 0 ended as requested, "
        "1 not cleanly, 2 cannot start.",
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: configuration/config.properties)",
    )
    commands = parser.add_mutually_exclusive_group()
    commands.add_argument(
        "--check-config",
        dest="command",
        action="store_const",
        const=_check_config,
        help="report all errors of the configuration and end; exit code 0: none, 2: some",
    )
    commands.add_argument(
        "--print-config",
        dest="command",
        action="store_const",
        const=_print_config,
        help="print each option's value and where it was set, and end; exit code 0, or 2 if there are errors",
    )
    commands.add_argument(
        "--status",
        dest="command",
        action="store_const",
        const=_status,
        help="print the state of the running server and of each device; exit code 0: all is well, "
        "1: something needs attention, 2: no server answers",
    )
    commands.add_argument(
        "--forget",
        dest="command",
        type=lambda text: partial(_forget, device_id(text)),
        metavar="DEVICE",
        help="stop counting a device as silent or behind, until it sends again; its data stays; exit code "
        "0: forgotten, 1: unknown, or sending at the moment, 2: not possible",
    )
    parser.add_argument("--json", action="store_true", help="with --status: print JSON")
    commands.add_argument(
        "--version",
        dest="command",
        action="store_const",
        const=_version,
        help="print name and version, and end",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
