"""What happens where a batch meets a row of the same key; pure, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence

from utilities.checksum_util import format_canonical, md5_hex, parse_canonical
from utilities.model import Batch
from utilities.utc import day_of


def merged_batch(stored: Batch, arrived: Batch) -> Batch | None:
    """The row that holds both, the arrived values winning; None where that changes nothing.

    Both have the same key. Samples that only the stored row has stay.
    """
    if stored.values == arrived.values:
        return None
    before = parse_canonical(stored.values)
    samples = before | parse_canonical(arrived.values)
    if samples == before:
        return None
    return batch_of(arrived.device_id, arrived.second, format_canonical(samples))


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
