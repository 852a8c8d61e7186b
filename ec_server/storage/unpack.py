"""Writes one UTC day to a plain SQLite file: the original's two tables with all rows, packed or not.

    python -m ec_server.storage.unpack -d YYYYMMDD -o FILE.sqlite [--device ID] [-c FILE]

Exit codes: 0 written, 1 nothing is stored of that day, 2 wrong usage or settings, or a fault.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw

from configuration.properties_reader import read_settings
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store, refuse_stored_file, why_no_storage
from ec_server.storage.original_tables import checksums, consumption
from utilities.command_line import EXIT_FAULT, device_id, new_file, run, say
from utilities.errors import EcServerError
from utilities.utc import DAY_S, ec_date, parse_ec

EXIT_NOTHING = 1
_SCHEMA = Path(__file__).with_name("schema") / "sqlite_day.sql"
_ROWS = "INSERT INTO ec_consumption VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DIGESTS = "INSERT INTO ec_checksum VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(options.config, os.environ)
        if why := why_no_storage(settings):
            print(why, file=sys.stderr)
            return EXIT_NOTHING
        refuse_stored_file(settings, options.out)
        with open_store(settings, read_only=True) as store:
            rows = write_day(store, options.day, options.device, options.out)
    except (EcServerError, OSError, apsw.Error) as error:
        print(f"nothing was written: {error}", file=sys.stderr)
        return EXIT_FAULT
    if not rows:
        of_device = f" of {options.device}" if options.device else ""
        print(f"nothing is stored{of_device} on {ec_date(options.day)}; no file was created", file=sys.stderr)
        return EXIT_NOTHING
    say(f"{options.out}: {rows} rows")
    return 0


def write_day(store: Store, day: int, device_id: str | None, path: Path) -> int:
    """Write a day's rows and digests to a file that replaces ``path``; returns how many rows, 0: no file."""
    devices = [d for d, of in store.stored_days() if of == day and device_id in (None, d)]
    if not devices:
        return 0
    unfinished = path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        with closing(apsw.Connection(str(unfinished))) as database:
            database.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            database.execute(_SCHEMA.read_text("utf-8"))
            with database:
                for device in devices:
                    cursor = database.cursor()
                    cursor.executemany(_ROWS, consumption(store, device, day, day + DAY_S))
                    cursor.executemany(_DIGESTS, checksums(store, device, day, day + DAY_S))
            rows = int(database.execute("SELECT count(*) FROM ec_consumption").get)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ec_server.storage.unpack",
        description="Write a plain SQLite file of one UTC day: ec_consumption and ec_checksum, all rows.",
        epilog="Exit codes: 0 written, 1 nothing is stored of that day, 2 wrong usage or a fault.",
    )
    add = parser.add_argument
    add("-d", dest="day", type=_day, required=True, metavar="YYYYMMDD", help="the UTC day")
    add(
        "-o",
        dest="out",
        type=new_file,
        required=True,
        metavar="FILE.sqlite",
        help="output file; an existing one is replaced",
    )
    add("--device", type=device_id, metavar="ID", help="only this device")
    add("-c", dest="config", type=Path, metavar="FILE", help="the server's configuration file")
    return parser


def _day(text: str) -> int:
    try:
        return parse_ec(text, "000000")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day of the form YYYYMMDD") from error


if __name__ == "__main__":
    sys.exit(run(main))
