"""Samples read in arrays: what Python reads one by one, of any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.packing.number_scan import scan

_REGULAR = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?")


def one_by_one(value: str) -> tuple[int, int, bool] | None:
    """Mantissa, places and sign of a regular value."""
    match = _REGULAR.fullmatch(value)
    if match is None or len(value) - len(match[1]) > 16:
        return None
    mantissa = int(match[2] + (match[3] or ""))
    return (mantissa, len(match[3] or ""), bool(match[1])) if mantissa < 10**9 else None


_values = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,10})(\.[0-9]{1,15})?", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,4}\.[0-9]{3}", fullmatch=True),
    st.text("0123456789+-.eE,", min_size=1, max_size=24),
)


@pytest.mark.thorough
@settings(max_examples=250, deadline=None)
@given(st.lists(_values, min_size=1, max_size=30))
def test_values_are_read_as_python_reads_them(values: list[str]) -> None:
    text = ";".join(f"{us:06d},{value}" for us, value in enumerate(values))
    samples = scan(text.encode())
    assert samples is not None
    assert samples.us.tolist() == list(range(len(values)))
    assert [text[a:b] for a, b in zip(samples.starts.tolist(), samples.ends.tolist())] == values
    read = zip(samples.mantissas.tolist(), samples.places.tolist(), samples.negative.tolist())
    assert [one if good else None for one, good in zip(read, samples.regular.tolist())] == [
        one_by_one(value) for value in values
    ]


@pytest.mark.parametrize(
    "text",
    ["", ";", "000001", "000001,", "00001,1;", "000001;1", "00000a,1", "000001,1;", "000001,1;;000002,2"],
)
def test_text_that_is_not_canonical_is_not_read(text: str) -> None:
    assert scan(text.encode()) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    scan(text)
