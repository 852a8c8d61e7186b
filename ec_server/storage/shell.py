"""An SQL shell in which ``ec_consumption`` and ``ec_checksum`` show all stored data, packed or not.

    python -m ec_server.storage.shell [-c FILE] [STATEMENT ...]

Both are read-only virtual tables over the storage contract, for either engine. Conditions (``=``, ``<``,
``<=``, ``>``, ``>=``, BETWEEN) on device_id, ec_date and ec_time limit which data is read. With statements
as arguments it runs them and exits; otherwise it reads statements from the terminal or standard input.

Exit codes: 0 all went well, 1 a statement failed (not on a terminal, where people see it), 2 wrong usage or
settings, or a fault.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import apsw.shell

from configuration.properties_reader import read_settings
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store, why_no_storage
from ec_server.storage.original_tables import CHECKSUM, CONSUMPTION, Line, checksums, consumption
from utilities.command_line import EXIT_FAULT, output, run
from utilities.errors import ConfigurationError, EcServerError
from utilities.utc import DAY_S, MINUTE_S, ec_date, minute_of, parse_ec

EXIT_FAILED = 1
_Read = Callable[[Store, str, int, int], Iterator[Line]]

_EQ, _GT, _LE, _LT, _GE = (
    apsw.SQLITE_INDEX_CONSTRAINT_EQ,
    apsw.SQLITE_INDEX_CONSTRAINT_GT,
    apsw.SQLITE_INDEX_CONSTRAINT_LE,
    apsw.SQLITE_INDEX_CONSTRAINT_LT,
    apsw.SQLITE_INDEX_CONSTRAINT_GE,
)
_LOWER, _UPPER = (_EQ, _GT, _GE), (_EQ, _LT, _LE)
_DEVICE, _DATE, _TIME = range(3)
"""The columns whose conditions are used; both tables begin with them."""
_COST = {_DEVICE: 50, _DATE: 400, _TIME: 20}
"""By what factor an equality reduces the data to read, roughly."""
_NUMBERS = ("values_count", "check_times")
_LAST_SECOND = 86_399


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(options.config, os.environ)
        if why := why_no_storage(settings):
            raise ConfigurationError(why)
        with open_store(settings, read_only=True) as store, output():
            return _run(store, options.statement)
        return 0  # the reader of the output has gone
    except EcServerError as error:
        print(error, file=sys.stderr)
        return EXIT_FAULT


class _Shell(apsw.shell.Shell):
    """Remembers that a statement failed: from the terminal or a pipe it goes on with the next one."""

    failed = False

    def handle_exception(self) -> None:
        """Say what went wrong, as ever."""
        self.failed = True
        super().handle_exception()  # type: ignore[no-untyped-call]


def _run(store: Store, statements: Sequence[str]) -> int:
    shell: Any = _Shell(db=connect(store))
    try:
        for statement in statements:
            shell.process_complete_line(statement)
        if not statements:
            shell.cmdloop()
    except SystemExit as end:  # .exit
        return int(end.code or 0)
    except apsw.Error:  # the shell has printed it
        return EXIT_FAILED
    except apsw.shell.Shell.Error as error:  # a command of the shell's own
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return EXIT_FAILED if shell.failed and not shell.interactive else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ec_server.storage.shell",
        description="SQL shell: ec_consumption and ec_checksum show all stored data, packed or not.",
        epilog="Exit codes: 0 all went well, 1 a statement failed, 2 wrong arguments or configuration.",
    )
    parser.add_argument(
        "-c", dest="config", type=Path, metavar="FILE", help="the server's configuration file"
    )
    parser.add_argument(
        "statement", nargs="*", metavar="STATEMENT", help="statements to run; without, an interactive shell"
    )
    return parser


def connect(store: Store) -> apsw.Connection:
    """A database with the two tables; query it from the store's thread only."""
    database = apsw.Connection(":memory:")
    for name, columns, read in (
        ("ec_consumption", CONSUMPTION, consumption),
        ("ec_checksum", CHECKSUM, _whole_minutes),
    ):
        module: Any = _Module(store, columns, read)
        database.create_module(f"stored_{name}", module, use_bestindex_object=True, read_only=True)
        database.execute(f"CREATE VIRTUAL TABLE {name} USING stored_{name}()")
    return database


def _whole_minutes(store: Store, device_id: str, start: int, stop: int) -> Iterator[Line]:
    return checksums(store, device_id, minute_of(start), minute_of(stop - 1) + MINUTE_S)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The part of the data that a query's conditions leave, both ends included; "" and None mean no limit."""

    device_id: str | None
    dates: tuple[str, str]
    times: tuple[str, str]

    def spans(self, store: Store) -> Iterator[tuple[str, int, int]]:
        """``(device, first second, second after the last)`` for each day of each device."""
        first, last = _second_of_day(self.times[0], 0), _second_of_day(self.times[1], _LAST_SECOND)
        for device_id, day in store.stored_days():
            within = self.dates[0] <= ec_date(day) and (not self.dates[1] or ec_date(day) <= self.dates[1])
            if within and self.device_id in (None, device_id) and first <= last:
                yield device_id, day + first, min(day + last + 1, day + DAY_S)


def _second_of_day(time_text: str, otherwise: int) -> int:
    """The second that ``HHMMSS`` names; ``otherwise`` if it names none, and so limits nothing."""
    try:
        return parse_ec("19700101", time_text) if len(time_text) == 6 else otherwise
    except ValueError:
        return otherwise


class _Module:
    """The interface that SQLite asks of a virtual table module and of its table."""

    def __init__(self, store: Store, columns: Sequence[str], read: _Read) -> None:
        self._store, self._columns, self._read = store, columns, read

    def Create(self, _database: object, *_names: str) -> tuple[str, _Module]:  # noqa: N802 (apsw's names)
        """The CREATE TABLE statement, and the table."""
        typed = (f"{name} {'INTEGER' if name in _NUMBERS else 'TEXT'}" for name in self._columns)
        return f"CREATE TABLE stored ({', '.join(typed)})", self

    Connect = Create

    def BestIndexObject(self, info: apsw.IndexInfo) -> bool:  # noqa: N802
        """Which conditions limit what is read; SQLite checks them again.

        One with a collation of its own (NOCASE) compares otherwise than the tables' bounds do.
        """
        plan: list[str] = []
        info.estimatedCost = 1e9
        for number in range(info.nConstraint):
            column, operator = info.get_aConstraint_iColumn(number), info.get_aConstraint_op(number)
            is_known = (
                column in _COST and operator in {*_LOWER, *_UPPER} and info.get_aConstraint_usable(number)
            )
            if is_known and info.get_aConstraint_collation(number) == "BINARY":
                plan.append(f"{column}:{operator}")
                info.set_aConstraintUsage_argvIndex(number, len(plan))
                info.estimatedCost /= _COST[column] if operator == _EQ else 2
        info.idxStr = ",".join(plan)
        return True

    def Open(self) -> _Cursor:  # noqa: N802
        """A cursor over the table."""
        return _Cursor(self._store, self._read)

    def Disconnect(self) -> None:  # noqa: N802
        """Nothing to release."""

    Destroy = Disconnect


class _Cursor:
    """The result rows of one query."""

    def __init__(self, store: Store, read: _Read) -> None:
        self._store, self._read = store, read
        self._lines: Iterator[Line] = iter(())
        self._line: Line | None = None
        self._number = 0

    def Filter(self, _number: int, plan: str, arguments: Sequence[Any]) -> None:  # noqa: N802
        """Begin a query; ``plan`` says to which condition each argument belongs."""
        self._lines = self._found(_bounds(plan, arguments))
        self.Next()

    def _found(self, bounds: _Bounds) -> Iterator[Line]:
        for device_id, start, stop in bounds.spans(self._store):
            yield from self._read(self._store, device_id, start, stop)

    def Next(self) -> None:  # noqa: N802
        """Go to the next row."""
        self._line = next(self._lines, None)
        self._number += 1

    def Eof(self) -> bool:  # noqa: N802
        """Whether there are no more rows."""
        return self._line is None

    def Column(self, number: int) -> str | int | None:  # noqa: N802
        """A column of the row; -1 is its rowid."""
        assert self._line is not None
        return self._number if number < 0 else self._line[number]

    def Rowid(self) -> int:  # noqa: N802
        """The row's number in the result."""
        return self._number

    def Close(self) -> None:  # noqa: N802
        """Nothing to release."""


def _bounds(plan: str, arguments: Sequence[Any]) -> _Bounds:
    device_id: str | None = None
    ends = {_DATE: ["", ""], _TIME: ["", ""]}
    for part, value in zip(plan.split(",") if plan else (), arguments, strict=True):
        column, operator = map(int, part.split(":"))
        if not isinstance(value, str):
            continue  # SQLite's own rules for comparing a number with text apply
        if column == _DEVICE:
            device_id = value if operator == _EQ else device_id
        else:
            low, high = ends[column]
            ends[column] = [
                max(low, value) if operator in _LOWER else low,
                min(high or value, value) if operator in _UPPER else high,
            ]
    return _Bounds(device_id, (ends[_DATE][0], ends[_DATE][1]), (ends[_TIME][0], ends[_TIME][1]))


if __name__ == "__main__":
    sys.exit(run(main))
