"""Run the whole Energy Consumption Server: receivers, synchronization, status page.

Starts each as a process of its own, keeps them running, and ends them in order on SIGTERM or SIGINT.
docs/operations.md says what its log lines, signals and exit codes mean.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from configuration.check import check
from configuration.properties_reader import read_settings
from ec_server.supervision.launcher import launch, refuse
from utilities import log
from utilities.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 0 ended as asked, 1 not cleanly, 2 it must be set up otherwise."""
    options = _parser().parse_args(arguments)
    if options.version:
        print(_version())
        return 0
    if options.check_config:
        code, text = check(options.config, os.environ)
        print(text, file=sys.stderr if code else sys.stdout)
        return code
    log.set_up("launcher")
    try:
        settings = read_settings(options.config, os.environ)
    except ConfigurationError as error:
        return refuse(str(error))
    logging.getLogger().setLevel(settings.log_level.upper())
    return launch(settings, options.config, ROOT, os.environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Receives electricity meter data over SIP, stores it, and proves that it is complete.",
        epilog="Ends on SIGTERM or SIGINT. Exit codes: 0 as asked, 1 not cleanly, 2 cannot start.",
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: configuration/config.properties)",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="name every fault of the configuration and end: 0 none, 2 some",
    )
    parser.add_argument("--version", action="store_true", help="print name and version, and end")
    return parser


def _version() -> str:
    import tomllib  # noqa: PLC0415 (for this alone)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"{project['name']} {project['version']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
