"""What a writer remembers of its own last rows."""

from __future__ import annotations

from ec_server.storage.merge import batch_of
from ec_server.storage.recent_rows import RecentRows, RowKey

NOON = 1_772_366_400


def row(number: int, value: str = "1") -> tuple[RowKey, str]:
    batch = batch_of("m", NOON + number, f"000000,{value};000500,2")
    return batch.key, batch.checksum


def test_the_same_row_is_known_and_another_under_its_key_is_told_from_it() -> None:
    recent = RecentRows(10)
    assert recent.is_same(*row(1)) is None
    recent.add([row(1)])
    assert recent.is_same(*row(1)) is True
    assert recent.is_same(*row(1, "7")) is False
    recent.add([row(1, "7")])
    assert recent.is_same(*row(1, "7")) is True


def test_the_oldest_are_forgotten_and_at_least_half_are_kept() -> None:
    recent = RecentRows(100)
    for number in range(1000):
        recent.add([row(number)])
        assert len(recent) <= 100
    assert all(recent.is_same(*row(number)) for number in range(950, 1000))
    assert recent.is_same(*row(0)) is None


def test_a_newer_row_of_a_key_hides_the_older_generations() -> None:
    recent = RecentRows(4)
    recent.add([row(1), row(2), row(3), row(1, "9")])
    assert recent.is_same(*row(1, "9")) is True
    assert recent.is_same(*row(1)) is False
