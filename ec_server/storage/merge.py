"""Which value of a microsecond wins, and how a batch merges with a row of the same key; pure.

Rules:

1. Rows of one second are ordered by ``StoredRow.rank``; rows of equal rank, which only two servers can
   produce, by their key. The value of a microsecond is that of the highest row that contains it.
2. A batch that arrives when a row of its key with other samples is stored becomes one row with the
   microseconds of both. Its values are those that win in the whole second once the batch has arrived: a
   value that another row has overridden does not come back.
3. A replaced row is kept. A batch equal to it was received before, and is a duplicate.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence

from utilities.checksum_util import Samples, format_canonical, md5_hex, parse_canonical
from utilities.model import Batch, StoredRow
from utilities.utc import day_of

_NO_MICROSECOND = 1_000_000


def in_rank(rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Rows of one second, lowest rank first (rule 1)."""
    return sorted(rows, key=lambda row: (row.rank, row.batch.start_us, row.batch.end_us))


def winners(rows: Iterable[StoredRow]) -> Samples:
    """The winning value of each microsecond of one second; rows in any order."""
    values: Samples = {}
    for row in in_rank(rows):
        values |= parse_canonical(row.batch.values)
    return values


def merged(second: Sequence[StoredRow], stored: StoredRow, arrived: StoredRow) -> Batch | None:
    """The row that replaces ``stored`` when ``arrived``, of the same key, arrives; None if nothing changes.

    ``second`` holds all rows of the second, including ``stored``.
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
    """One second's rows while a repair changes them: each repaired row ranks above all others.

    A repair that overlaps no row (a message of the meter was lost) is accepted without being parsed.
    """

    def __init__(self, rows: Iterable[StoredRow]) -> None:
        self._rows = in_rank(rows)
        self.texts = {row.batch.key: row.batch.values for row in self._rows}
        """The texts of the rows by key, as they are after the repair so far."""
        self._values: Samples | None = None
        self._parsed: set[tuple[str, int, int, int]] = set()
        self._spans: list[tuple[int, int]] = []
        for row in self._rows:
            self._cover(row.batch)

    def after(self, repair: Batch) -> Batch | None:
        """The row that makes the repair's values win; None if they win already.

        It has the repair's key, and replaces the stored row of that key if there is one.
        """
        after = repair if self._is_apart(repair) else self._over(repair)
        if after is not None:
            self.texts[after.key] = after.values
            self._cover(after)
        return after

    def _is_apart(self, batch: Batch) -> bool:
        """Whether no row has a microsecond within the batch's span."""
        at = bisect_right(self._spans, (batch.end_us, _NO_MICROSECOND))
        return at == 0 or self._spans[at - 1][1] < batch.start_us

    def _cover(self, batch: Batch) -> None:
        """Keep the spans of rows disjoint and ascending."""
        if self._is_apart(batch):
            insort(self._spans, (batch.start_us, batch.end_us))
            return
        touching = [s for s in self._spans if s[0] <= batch.end_us and s[1] >= batch.start_us]
        whole = (min(batch.start_us, touching[0][0]), max(batch.end_us, touching[-1][1]))
        self._spans = sorted({*self._spans}.difference(touching) | {whole})

    def _over(self, repair: Batch) -> Batch | None:
        came, values = parse_canonical(repair.values), self._winning()
        if all(values.get(us) == value for us, value in came.items()):
            return None
        values |= came
        stored = self.texts.get(repair.key)
        if stored is None:
            return repair
        microseconds = parse_canonical(stored).keys() | came.keys()
        text = format_canonical({us: values[us] for us in microseconds})
        return batch_of(repair.device_id, repair.second, text)

    def _winning(self) -> Samples:
        """The winning values. Rows that were not parsed yet overlap no earlier one."""
        if self._values is None:
            self._values = winners(self._rows)
            self._parsed = {row.batch.key for row in self._rows}
        for text in [text for key, text in self.texts.items() if key not in self._parsed]:
            self._values |= parse_canonical(text)
        self._parsed = set(self.texts)
        return self._values


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
    """The UTC day of all batches, None if there are none. Raises ValueError if they differ."""
    if not batches:
        return None
    seconds = [batch.second for batch in batches]
    first, last = day_of(min(seconds)), day_of(max(seconds))
    if first != last:
        raise ValueError("all batches of one write call must be of the same UTC day")
    return first
