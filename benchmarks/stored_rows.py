"""Counts the batches in the database after a measurement: those that must, may and must not be there.

Reads with the interpreter's own SQLite and plain SQL, without any of the server's code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_client.load_plan import LoadPlan
from utilities.utc import ec_date, ec_time


@dataclass(frozen=True, slots=True)
class Sent:
    """A plan that was sent, with the numbers of its messages that were not acknowledged."""

    plan: LoadPlan
    unanswered: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RowCount:
    """What a database has of everything that was sent."""

    acknowledged: int
    """Batches that must be there, as the server acknowledged them."""
    stored: int
    """Rows that are there."""
    missing: int
    """Acknowledged batches without their row."""
    foreign: int
    """Rows that are not a batch of the plans."""

    def faults(self) -> list[str]:
        """The errors as text; [] if everything is right."""
        found = []
        if self.missing:
            found.append(f"{self.missing} of {self.acknowledged} acknowledged batches are not stored")
        if self.foreign:
            found.append(f"{self.foreign} rows in the database were never sent")
        return found


def count_rows(folder: Path, sent: Sequence[Sent]) -> RowCount:
    """Compare every row of the day files in ``folder`` with every batch of the plans, text by text."""
    return compare(stored_in(folder), sent)


def compare(rows: Iterable[int], sent: Sequence[Sent]) -> RowCount:
    """Compare fingerprints of rows with the plans."""
    stored = list(rows)
    possible = [fingerprint(*_columns(s.plan, n)) for s in sent for n in range(s.plan.messages)]
    excused = {fingerprint(*_columns(s.plan, n)) for s in sent for n in s.unanswered}
    must, found = set(possible) - excused, set(stored)
    return RowCount(len(must), len(stored), len(must - found), len(stored) - len(found & set(possible)))


def stored_in(folder: Path) -> Iterable[int]:
    """Fingerprints of the rows of every day file."""
    for path in sorted(folder.glob("ec-*.sqlite")):
        database = sqlite3.connect(path)
        try:
            for row in database.execute(
                "SELECT device_id, ec_date, ec_time, ec_consumption_values FROM ec_consumption"
            ):
                yield fingerprint(*row)
        finally:
            database.close()


def fingerprint(device_id: str, date: str, time: str, values: str) -> int:
    """A hash of a row's content, valid within this process."""
    return hash((device_id, date, time, values))


def _columns(plan: LoadPlan, number: int) -> tuple[str, str, str, str]:
    device_id, second, text = plan.batch(number)
    return device_id, ec_date(second), ec_time(second), text
