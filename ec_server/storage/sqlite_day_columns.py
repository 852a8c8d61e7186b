"""The rows of one second as columns, for packing: one SQL statement, and little work per row.

This works only if all rows are written as this server writes them. If another program wrote one differently,
or one that begins at the same microsecond as another, the rows are read one by one (sqlite_day_packing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.packing.block import Columns
from ec_server.storage.sqlite_connection import all_rows
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_rank import ranks_and_ties
from utilities.utc import iso, parse_ec, parse_iso

_STATEMENT = (
    "SELECT rowid, start_us, end_us, ec_consumption_values, values_count, values_checksum, insert_time"
    " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_time = ? ORDER BY start_us, end_us"
)
_MICROSECOND_CHARACTERS, _CHECKSUM_CHARACTERS = 6, 32
_MOMENT_CHARACTERS, _TO_SECOND = 32, 20
"""``YYYY-MM-DDTHH:MM:SS.`` and what follows it."""
_ZONE = np.frombuffer(b"+00:00", np.uint8)

_Numbers = npt.NDArray[np.int64]
_Characters = npt.NDArray[np.uint8]


class SecondColumns(NamedTuple):
    """All rows of a second as stored; their values have not been checked."""

    columns: Columns
    rowids: _Numbers


class _OtherFormError(Exception):
    """A row is not written as this server writes it."""


def columns_of(file: DayFile, device_id: str, time_text: str) -> SecondColumns | None:
    """The rows of a second; None if there are none or if some do not qualify. Raises apsw's errors."""
    try:
        rows = all_rows(file.db.execute(_STATEMENT, (device_id, file.date, time_text)))
    except UnicodeDecodeError:  # damaged
        return None
    if not rows:
        return None
    numbers, starts, ends, values, counts, checksums, inserted = zip(*rows)
    rowids = np.array(numbers, np.int64)
    try:
        columns = Columns(
            device_id,
            parse_ec(file.date, time_text),
            _joined(values, ";"),
            _joined_of(checksums, _CHECKSUM_CHARACTERS),
            np.fromiter(map(len, values), np.int64, len(values)),
            _digits(_matrix(starts, _MICROSECOND_CHARACTERS)),
            _digits(_matrix(ends, _MICROSECOND_CHARACTERS)),
            _whole(counts),
            _moments(inserted),
            *ranks_and_ties(rowids),
        )
    except _OtherFormError:
        return None
    rises = (columns.starts_us[1:] > columns.starts_us[:-1]).all()
    return SecondColumns(columns, rowids) if rises else None


def _joined(texts: Sequence[str], between: str) -> bytes:
    try:
        return between.join(texts).encode("ascii")
    except (TypeError, UnicodeEncodeError):
        raise _OtherFormError from None


def _joined_of(texts: Sequence[str], length: int) -> bytes:
    """Texts of one length, joined."""
    joined = _joined(texts, "")
    if set(map(len, texts)) != {length}:
        raise _OtherFormError
    return joined


def _matrix(texts: Sequence[str], length: int) -> _Characters:
    """Texts of one length as rows of characters."""
    return np.frombuffer(_joined_of(texts, length), np.uint8).reshape(-1, length)


def _digits(characters: _Characters) -> _Numbers:
    """Each row of decimal digits as a number."""
    digits = characters - np.uint8(ord("0"))
    if (digits > 9).any():
        raise _OtherFormError
    return digits @ 10 ** np.arange(digits.shape[1])[::-1]


def _whole(numbers: Sequence[int]) -> _Numbers:
    found = np.array(numbers)
    if found.dtype != np.int64:
        raise _OtherFormError
    return found


def _moments(texts: Sequence[str]) -> _Numbers:
    """Epoch microseconds of insert times as the server writes them."""
    characters = _matrix(texts, _MOMENT_CHARACTERS)
    prefixes, rest = characters[:, :_TO_SECOND], characters[:, _TO_SECOND:]
    if (rest[:, _MICROSECOND_CHARACTERS:] != _ZONE).any():
        raise _OtherFormError
    microseconds = _digits(rest[:, :_MICROSECOND_CHARACTERS])
    if (prefixes == prefixes[0]).all():
        return _second_us(texts[0][:_TO_SECOND]) + microseconds
    of_rows = [text[:_TO_SECOND] for text in texts]
    seconds_us = {prefix: _second_us(prefix) for prefix in set(of_rows)}
    return np.array([seconds_us[prefix] for prefix in of_rows]) + microseconds


def _second_us(prefix: str) -> int:
    try:
        moment = parse_iso(f"{prefix}000000+00:00")
    except ValueError:
        raise _OtherFormError from None
    if not iso(moment).startswith(prefix):
        raise _OtherFormError
    return moment
