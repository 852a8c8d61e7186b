"""The lines of minutes count a microsecond once, whether the digest is cached or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_data import MINUTE, stored_folder

from ec_server.export.minute_lines import minute_lines
from ec_server.export.stored_seconds import Span
from ec_server.storage.sqlite_store import SqliteStore

SECONDS = {MINUTE + offset: ["000000,1;000022,2;000044,3", "000022,5;000066,6"] for offset in (0, 1, 60, 120)}


@pytest.mark.parametrize(
    ("counted", "samples"), [(0, [10, 5, 5]), (12, [8, 5, 5]), (15, [8, 4, 5]), (99, [8, 4, 4])]
)
def test_minutes_without_a_cached_digest_are_counted_as_far_as_may_be_read(
    tmp_path: Path, counted: int, samples: list[int]
) -> None:
    folder = stored_folder(tmp_path / "data", "m", SECONDS)
    with SqliteStore(folder, read_only=True) as store:
        lines = list(minute_lines(store, Span("m", MINUTE, MINUTE + 180), counted))
        assert [line.samples for line in lines] == samples
        assert [line.rows for line in lines] == [4, 2, 2]
