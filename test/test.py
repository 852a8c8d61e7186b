"""Shows what is stored of a device in one UTC hour: the check tool.

    python test.py -i DEVICE -d YYYYMMDDhhmiss [-c FILE] [--json] [--plot FILE.png] [-s [SS]]

A row per minute of the hour, then a row per second of the minute. It reads only, and may run while the
server does. Exit code 0; 1 if the device has no data in that hour; 2 if the arguments, the
configuration or the database are at fault. docs/check-tool.md says it all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file from anywhere

from configuration.properties_reader import read_settings  # noqa: E402
from configuration.settings import Settings  # noqa: E402
from ec_server.check.hour_report import HourReport, read_hour  # noqa: E402
from ec_server.check.report_text import as_json, write_tables  # noqa: E402
from ec_server.storage.contract import Store  # noqa: E402
from ec_server.storage.engines import open_store, why_no_storage  # noqa: E402
from utilities import extras, utc  # noqa: E402
from utilities.command_line import EXIT_FAULT, device_id, output, run, say  # noqa: E402
from utilities.errors import EcServerError  # noqa: E402

EXIT_NO_DATA = 1
_MOST_NAMED = 10
_OWN_SECOND = -1  # -s without a number: the second of -d


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, show, say whether there was something to show."""
    asked = _parser().parse_args(arguments)
    try:
        return _show(asked)
    except EcServerError as error:
        print(f"test.py: {error}", file=sys.stderr)
        return EXIT_FAULT


def _show(asked: argparse.Namespace) -> int:
    settings = _find_data(read_settings(asked.config, os.environ))
    source = _source(settings)
    wave_second = _wave_second(asked)
    with open_store(settings, read_only=True) as store:
        report = read_hour(store, asked.device, asked.moment, asked.rate, wave_second)
        known = [] if report.rows else _known(store, asked.device)
    if asked.json:
        say(as_json(report, source))
    elif report.rows:
        with output():
            write_tables(report, sys.stdout, source)
    fault = _plot(report, asked.plot) if asked.plot else 0
    if not report.rows:
        why = why_no_storage(settings) or _nothing(report, source, known)
        print(f"test.py: {why}", file=sys.stderr)
        return EXIT_NO_DATA
    return fault


def _plot(report: HourReport, path: Path) -> int:
    try:
        from ec_server.check.report_plot import write_plot

        write_plot(report, path)
    except ImportError:
        print(f"test.py: --plot needs {extras.install_text('matplotlib')}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"test.py: cannot write {path}: {error}", file=sys.stderr)
    else:
        return 0
    return EXIT_FAULT


def _find_data(settings: Settings) -> Settings:
    """Where ``storage.path`` is relative and not here, the project's folder: the tool runs in test/ too."""
    if settings.storage_path.exists() or not (ROOT / settings.storage_path).exists():
        return settings
    return replace(settings, storage_path=ROOT / settings.storage_path)


def _source(settings: Settings) -> str:
    if settings.storage_engine == "cassandra":
        return f"{','.join(settings.cassandra_host)}/{settings.cassandra_keyspace}"
    return str(settings.storage_path)


def _wave_second(asked: argparse.Namespace) -> int | None:
    if asked.second is None:
        return None
    moment: int = asked.moment
    return moment if asked.second == _OWN_SECOND else utc.minute_of(moment) + int(asked.second)


def _known(store: Store, device: str) -> list[str]:
    """Devices on record, and this one where something is stored of it."""
    known = [record.device_id for record in store.devices()]
    return known if store.earliest_minute(device) is None else [*known, device]


def _nothing(report: HourReport, source: str, known: Sequence[str]) -> str:
    start = utc.iso(report.hour * 1_000_000)
    text = f"no data of {report.device_id} in the hour {start[:10]} {start[11:16]} UTC in {source}"
    if report.device_id in known:
        return text
    names = ", ".join(known[:_MOST_NAMED]) + (", ..." if len(known) > _MOST_NAMED else "")
    return f"{text}; the device was never seen" + (f", only {names}" if known else "")


def _moment(text: str) -> int:
    try:
        return utc.parse_second(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rate(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number greater than 0")
    return int(text)


def _second(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 60):
        raise argparse.ArgumentTypeError(f"{text!r} is not a second, 0 to 59")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="test.py", description="Show what is stored of a device in one UTC hour."
    )
    parser.add_argument(
        "-i", dest="device", type=device_id, required=True, metavar="DEVICE", help="device id"
    )
    parser.add_argument(
        "-d",
        dest="moment",
        required=True,
        type=_moment,
        metavar="YYYYMMDDhhmiss",
        help="UTC time: its hour is shown minute by minute, its minute second by second",
    )
    parser.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration file")
    parser.add_argument("--rate", type=_rate, default=44_000, help="expected samples per second")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the hour, and with -s the second")
    parser.add_argument(
        "-s",
        dest="second",
        nargs="?",
        const=_OWN_SECOND,
        type=_second,
        metavar="SS",
        help="add the samples of a second: SS of the minute, by default the second of -d",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
