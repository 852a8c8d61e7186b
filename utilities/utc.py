"""Conversion of UTC times: dates, times, minutes and seconds as text.

Years have four digits, also those before 1000, for which ``strftime`` writes fewer.

Inside the server, a time is an ``int``: UTC epoch seconds. A *minute* is the epoch second at which it
begins (a multiple of 60), a *day* the epoch second of its midnight. Ranges are half-open. Text is used only
in database columns, in frames of the synchronization, and for people.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable
from functools import lru_cache

_SECOND_US = 1_000_000
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400

# The last second of a four-digit year; everything that the server accepts is earlier.
_LATEST = calendar.timegm((9999, 12, 31, 23, 59, 59))


def minute_of(second: int) -> int:
    """The minute (its first epoch second) that contains ``second``."""
    return second - second % MINUTE_S


def day_of(second: int) -> int:
    """The UTC day (its first epoch second) that contains ``second``."""
    return second - second % DAY_S


@lru_cache(maxsize=8192)
def ec_date(second: int) -> str:
    """Column ``ec_date``, ``YYYYMMDD``, of an epoch second."""
    return time.strftime("%Y%m%d", time.gmtime(second)).zfill(8)


@lru_cache(maxsize=8192)
def ec_time(second: int) -> str:
    """Column ``ec_time``, ``HHMMSS``, of an epoch second."""
    return time.strftime("%H%M%S", time.gmtime(second))


@lru_cache(maxsize=8192)
def minute_text(minute: int) -> str:
    """``YYYYMMDDHHMM`` of the minute that begins at epoch second ``minute``."""
    return time.strftime("%Y%m%d%H%M", time.gmtime(minute)).zfill(12)


@lru_cache(maxsize=8192)
def second_text(second: int) -> str:
    """``YYYYMMDDHHMMSS`` of an epoch second."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(second)).zfill(14)


def parse_minute(text: str) -> int:
    """Epoch second of ``YYYYMMDDHHMM``.

    Raises ValueError if the text is not twelve ASCII digits that name a real minute.
    """
    return parse_second(text + "00") if len(text) == 12 else _not_a_moment(text, "YYYYMMDDHHMM")


@lru_cache(maxsize=8192)
def parse_second(text: str) -> int:
    """Epoch second of ``YYYYMMDDHHMMSS``; ValueError if there is no such second."""
    if len(text) != 14 or not (text.isascii() and text.isdigit()):
        _not_a_moment(text, "YYYYMMDDHHMMSS")
    fields = tuple(int(text[a:b]) for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14)))
    year, month, day, hour, minute, second = fields
    if not (year >= 1 and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        _not_a_moment(text, "YYYYMMDDHHMMSS")
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        _not_a_moment(text, "YYYYMMDDHHMMSS")
    return calendar.timegm(fields)


def parse_ec(ec_date_text: str, ec_time_text: str) -> int:
    """Epoch second of the columns ``ec_date`` and ``ec_time``."""
    return parse_second(ec_date_text + ec_time_text)


@lru_cache(maxsize=8192)
def is_ec_time(text: str) -> bool:
    """Whether a text from a column ``ec_time`` is a time of day; other programs may have written anything."""
    return (
        len(text) == 6 and text.isascii() and text.isdigit() and text < "24" and max(text[2], text[4]) < "6"
    )


def iso(moment_us: int) -> str:
    """ISO-8601 UTC text with microseconds, from epoch microseconds."""
    second, microsecond = divmod(moment_us, _SECOND_US)
    return f"{_iso_second(second)}.{microsecond:06d}+00:00"


@lru_cache(maxsize=1024)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).zfill(19)


def iso_texts(moments_us: Iterable[int]) -> list[str]:
    """``iso`` of each; fast if many are in the same second."""
    texts, begin, prefix = [], -_SECOND_US, ""
    for moment_us in moments_us:
        if not begin <= moment_us < begin + _SECOND_US:
            begin = moment_us - moment_us % _SECOND_US
            prefix = _iso_second(begin // _SECOND_US)
        texts.append(f"{prefix}.{moment_us - begin:06d}+00:00")
    return texts


def parse_iso(text: str) -> int:
    """Epoch microseconds of a text of ``iso``."""
    return parse_second(text[0:4] + text[5:7] + text[8:10] + text[11:13] + text[14:16] + text[17:19]) * (
        1_000_000
    ) + int(text[20:26])


def moment_us(text: str | None) -> int | None:
    """Epoch microseconds of a stored text that may be damaged; None if it is not what ``iso`` wrote."""
    try:
        return parse_iso(text) if text is not None else None
    except ValueError:
        return None


def is_expressible(second: int) -> bool:
    """Whether an epoch second can be written with a four-digit year."""
    return 0 <= second <= _LATEST


def _not_a_moment(text: str, form: str) -> int:
    raise ValueError(f"{text!r} is not a UTC moment of the form {form}")
