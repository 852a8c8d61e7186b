"""The original design's two tables as any engine holds them, packed or not, column by column.

Columns are those of ORIGINAL's ``ec_consumption`` and ``ec_checksum`` in SQLite's form: times as text, UTC.
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
    """Rows of seconds ``[start, stop)``, ascending in the second, then in the order of insertion."""
    for (_, second, start_us, end_us, values, count, checksum), inserted_us, _ in store.rows(
        device_id, start, stop
    ):
        yield (
            device_id, ec_date(second), ec_time(second), f"{start_us:06d}", f"{end_us:06d}", values, count,
            checksum, iso(inserted_us),
        )  # fmt: skip


def checksums(store: Store, device_id: str, start: int, stop: int) -> Iterator[Line]:
    """Digests of the minutes of ``[start, stop)`` and of their seconds; what is not cached is computed.

    Ascending in ``ec_time``, of one time the minute before its second. ``start`` and ``stop`` are minutes.
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
