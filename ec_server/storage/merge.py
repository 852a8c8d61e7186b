"""Which value of a microsecond wins, and what becomes of a batch that meets a row; pure, for every engine.

Rules:

1. Rows of one second rank by ``StoredRow.rank``; equal ranks, which only two servers can produce, by
   their key. The value of a microsecond is that of the highest row that has it.
2. A batch that meets a row of its key with other samples becomes one row with the microseconds of both.
   Its values are those that win in the whole second once the batch has arrived: a value that another
   row has overridden is never revived.
3. A row that was replaced stays on record. A batch equal to it was received before, and is a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from utilities.checksum_util import Samples, format_canonical, md5_hex, parse_canonical
from utilities.model import Batch, StoredRow
from utilities.utc import day_of


def in_rank(rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Rows of one second, lowest rank first (rule 1)."""
    return sorted(rows, key=lambda row: (row.rank, row.batch.start_us, row.batch.end_us))


def winners(rows: Iterable[StoredRow]) -> Samples:
    """The value of each microsecond of one second; rows in any order."""
    values: Samples = {}
    for row in in_rank(rows):
        values |= parse_canonical(row.batch.values)
    return values


def merged(second: Sequence[StoredRow], stored: StoredRow, arrived: StoredRow) -> Batch | None:
    """The row in place of ``stored`` once ``arrived``, of the same key, has come; None: nothing changes.

    ``second`` are all rows of the second, ``stored`` among them.
    """
    before, came = parse_canonical(stored.batch.values), parse_canonical(arrived.batch.values)
    if before | came == before:
        return None
    values = winners([*second, arrived])
    after = batch_of(
        arrived.batch.device_id,
        arrived.batch.second,
        format_canonical({us: values[us] for us in before.keys() | came.keys()}),
    )
    return None if after.values == stored.batch.values else after


class RepairedSecond:
    """One second's rows while a repair changes them: each repaired row ranks above all others."""

    def __init__(self, rows: Iterable[StoredRow]) -> None:
        listed = list(rows)
        self._values = winners(listed)
        self._texts = {row.batch.key: row.batch.values for row in listed}

    def after(self, repair: Batch) -> Batch | None:
        """The row that makes the repair's values win; None where they win already.

        It has the repair's key: a stored row of that key is the one whose place it takes.
        """
        came = parse_canonical(repair.values)
        if all(self._values.get(us) == value for us, value in came.items()):
            return None
        self._values |= came
        stored = self._texts.get(repair.key)
        if stored is not None:
            microseconds = parse_canonical(stored).keys() | came.keys()
            text = format_canonical({us: self._values[us] for us in microseconds})
            repair = batch_of(repair.device_id, repair.second, text)
        self._texts[repair.key] = repair.values
        return repair


def batch_of(device_id: str, second: int, values: str) -> Batch:
    """A batch of canonical text that has at least one sample."""
    return Batch(
        device_id,
        second,
        int(values[:6]),
        int(values[values.rfind(";") + 1 :][:6]),
        values,
        values.count(";") + 1,
        md5_hex(values),
    )


def single_day(batches: Sequence[Batch]) -> int | None:
    """The UTC day of all the batches, None for none. Raises ValueError where they differ."""
    if not batches:
        return None
    seconds = [batch.second for batch in batches]
    first, last = day_of(min(seconds)), day_of(max(seconds))
    if first != last:
        raise ValueError("one write call takes batches of one UTC day, not of several")
    return first
