"""Moments as text: of every year that four digits can write."""

from __future__ import annotations

import pytest

from utilities import utc


@pytest.mark.parametrize("text", ["00010101000000", "09991231235959", "19700101000000", "99991231235959"])
def test_a_moment_reads_as_it_was_written(text: str) -> None:
    second = utc.parse_second(text)
    assert utc.second_text(second) == text
    assert utc.minute_text(utc.minute_of(second)) == text[:12]
    assert utc.ec_date(second) + utc.ec_time(second) == text
    assert utc.parse_iso(utc.iso(second * 10**6)) == second * 10**6
