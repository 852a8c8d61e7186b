"""The rows of one second as columns, for packing: SQLite joins each column, so that no row is an object here.

This works only if all rows are written as this server writes them. If another program wrote one differently,
or one that begins at the same microsecond as another, the rows are read one by one (sqlite_day_packing.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.packing.block import Columns
from ec_server.storage.sqlite_connection import the_row
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_rank import ranks_and_ties
from utilities.utc import iso, parse_ec, parse_iso

_TEXTS = ("ec_consumption_values", "values_checksum", "insert_time", "start_us", "end_us")
_IN_THEIR_TYPES = " AND ".join([*(f"{text} < x''" for text in _TEXTS), "values_count < ''"])
"""Numbers are less than texts, and texts less than blobs, whatever they hold."""
_STATEMENT = (
    f"SELECT count(*), sum({_IN_THEIR_TYPES}), group_concat(ec_consumption_values, ';'),"  # noqa: S608
    " group_concat(octet_length(ec_consumption_values)), group_concat(rowid), group_concat(values_count),"
    " group_concat(start_us), group_concat(end_us), group_concat(values_checksum), group_concat(insert_time)"
    " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_time = ?"
)
"""In the order of the index of the primary key: ascending in start_us, which is checked."""
_MICROSECOND_CHARACTERS, _CHECKSUM_CHARACTERS = 6, 32
_MOMENT_CHARACTERS, _TO_SECOND = 32, 20
"""``YYYY-MM-DDTHH:MM:SS.`` and what follows it."""
_ZONE = np.frombuffer(b"+00:00", np.uint8)
_COMMA = ord(",")

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
        found = the_row(file.db.execute(_STATEMENT, (device_id, file.date, time_text)))
        count, in_their_types, values, *others = found
        if not count or in_their_types != count:
            return None
        lengths, numbers, counts, starts, ends, checksums, inserted = (_ascii(text) for text in others)
        rowids = _whole(numbers, count)
        columns = Columns(
            device_id,
            parse_ec(file.date, time_text),
            _ascii(values),
            _matrix(checksums, count, _CHECKSUM_CHARACTERS).tobytes(),
            _whole(lengths, count),
            _digits(_matrix(starts, count, _MICROSECOND_CHARACTERS)),
            _digits(_matrix(ends, count, _MICROSECOND_CHARACTERS)),
            _whole(counts, count),
            _moments(_matrix(inserted, count, _MOMENT_CHARACTERS)),
            *ranks_and_ties(rowids),
        )
    except (UnicodeDecodeError, _OtherFormError):  # damaged, or another program's
        return None
    rises = (columns.starts_us[1:] > columns.starts_us[:-1]).all()
    return SecondColumns(columns, rowids) if rises else None


def _ascii(text: str) -> bytes:
    if not text.isascii():
        raise _OtherFormError
    return text.encode("ascii")


def _matrix(joined: bytes, count: int, length: int) -> _Characters:
    """``count`` texts of one length, joined by commas, as rows of characters."""
    if len(joined) + 1 != count * (length + 1):
        raise _OtherFormError
    characters = np.frombuffer(joined + b",", np.uint8).reshape(count, length + 1)
    texts, commas = characters[:, :length], characters[:, length]
    if (commas != _COMMA).any() or (texts == _COMMA).any():
        raise _OtherFormError
    return texts


def _whole(joined: bytes, count: int) -> _Numbers:
    """``count`` whole numbers, joined by commas."""
    if not joined.replace(b",", b"").isdigit():
        raise _OtherFormError
    numbers = np.fromstring(joined, np.int64, sep=",")
    if len(numbers) != count:
        raise _OtherFormError
    return numbers


def _digits(characters: _Characters) -> _Numbers:
    """Each row of decimal digits as a number."""
    digits = characters - np.uint8(ord("0"))
    if (digits > 9).any():
        raise _OtherFormError
    return digits @ 10 ** np.arange(digits.shape[1])[::-1]


def _moments(characters: _Characters) -> _Numbers:
    """Epoch microseconds of insert times as the server writes them."""
    prefixes, rest = characters[:, :_TO_SECOND], characters[:, _TO_SECOND:]
    if (rest[:, _MICROSECOND_CHARACTERS:] != _ZONE).any():
        raise _OtherFormError
    microseconds = _digits(rest[:, :_MICROSECOND_CHARACTERS])
    if (prefixes == prefixes[0]).all():
        return _second_us(prefixes[0].tobytes()) + microseconds
    of_rows = [prefix.tobytes() for prefix in prefixes]
    seconds_us = {prefix: _second_us(prefix) for prefix in set(of_rows)}
    return np.array([seconds_us[prefix] for prefix in of_rows]) + microseconds


def _second_us(prefix: bytes) -> int:
    text = prefix.decode("ascii")
    try:
        moment = parse_iso(f"{text}000000+00:00")
    except ValueError:
        raise _OtherFormError from None
    if not iso(moment).startswith(text):
        raise _OtherFormError
    return moment
