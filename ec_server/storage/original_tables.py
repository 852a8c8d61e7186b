"""The rows of the original design's two tables, from any engine, packed or not.

The columns are those of the original's ``ec_consumption`` and ``ec_checksum``, with times as UTC text.
"""

from __future__ import annotations

from collections.abc import Iterator

from ec_server.storage.contract import Store
from utilities.utc import MINUTE_S, ec_date, ec_time, iso

CONSUMPTION = (
    "device_id", "ec_date", "ec_time", "start_us", "end_us", "ec_consumption_values", "values_count",
    "values_checksum", "insert_time",
)  # fmt: skip
CHECKSUM = (
    "device_id", "ec_date", "ec_time", "ec_type", "values_count", "values_checksum", "check_time",
    "check_times",
)  # fmt: skip

Line = tuple[str | int | None, ...]


def consumption(store: Store, device_id: str, start: int, stop: int) -> Iterator[Line]:
    """The rows of seconds ``[start, stop)``, by second, then in the order of insertion."""
    for (_, second, start_us, end_us, values, count, checksum), inserted_us, _ in store.rows(
        device_id, start, stop
    ):
        yield (
            device_id, ec_date(second), ec_time(second), f"{start_us:06d}", f"{end_us:06d}", values, count,
            checksum, iso(inserted_us),
        )  # fmt: skip


def checksums(store: Store, device_id: str, start: int, stop: int) -> Iterator[Line]:
    """The digests of the minutes in ``[start, stop)`` and of their seconds, computed if not cached.

    Ordered by ``ec_time``; at the same time, the minute comes before its second. ``start`` and ``stop`` are
    minutes.
    """
    for minute, _, _ in store.row_counts(device_id, start, stop):
        checks = store.checks(device_id, minute)
        digests = [(minute, "P", d) for _, d in store.minute_digests(device_id, minute, minute + MINUTE_S)]
        digests += [(second, "S", d) for second, d in store.second_digests(device_id, minute)]
        for second, kind, digest in digests:
            checked_us, times = checks.get((second, kind), (None, 0))
            yield (
                device_id, ec_date(second), ec_time(second), kind, digest.count, digest.md5,
                iso(checked_us) if checked_us is not None else None, times,
            )  # fmt: skip
