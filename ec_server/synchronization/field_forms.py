"""Encoding and decoding of each kind of value in a frame's JSON line; pure.

Writing does not check the value. Reading a peer's value checks everything: type, range, order, and that
times exist. A wrong value raises RemoteProtocolError, which names the key and shows the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ec_server.synchronization.frames import MAX_ERROR_TEXT, MAX_RANGES, SECOND_US
from utilities.errors import RemoteProtocolError
from utilities.model import Digest
from utilities.utc import minute_text, parse_minute, parse_second, second_text

_MAX_NUMBER = 2**53
_MD5_HEX = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of value is encoded in a line."""

    write: Callable[[Any], Any]
    """Converts a value to JSON."""
    read: Callable[[str, Any], Any]
    """Reads a value from JSON; the key is for the error message."""


def bad_value(key: str, value: Any) -> RemoteProtocolError:
    """The error for a key that is missing or whose value is not allowed."""
    shown = "is missing" if value is None else f"cannot be {str(value)[:80]!r}"
    return RemoteProtocolError("bad_frame", f"{key!r} {shown}")


def _as_it_is(value: Any) -> Any:
    return value


# --- texts and numbers --------------------------------------------------------------------


def text(pattern: str | None = None, *, longest: int | None = None) -> Form:
    """Text that matches a pattern; longer text is cut to ``longest`` characters first."""
    compiled = re.compile(pattern) if pattern else None

    def read(key: str, value: Any) -> str:
        if not isinstance(value, str) or (compiled is not None and not compiled.fullmatch(value)):
            raise bad_value(key, value)
        return value[:longest]

    return Form(lambda value: value[:longest], read)


def integer(low: int = 0, high: int = _MAX_NUMBER) -> Form:
    """A whole number from ``low`` to ``high``, both included."""
    return Form(_as_it_is, lambda key, value: _integer(key, value, low, high))


def _integer(key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad_value(key, value)
    return value


def _read_interval(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise bad_value(key, value)
    return float(value)


def _read_encoding(key: str, value: Any) -> bool:
    if value not in ("plain", "zlib"):
        raise bad_value(key, value)
    return bool(value == "zlib")


DEVICE_ID = text(r"[A-Za-z0-9._-]{1,64}")
HEX = text(r"(?:[0-9a-fA-F]{2}){1,128}")
MD5 = text(f"(?:{_MD5_HEX.pattern})?")
"""Empty if there is nothing to digest."""
CODE = text(longest=64)
MESSAGE = text(longest=MAX_ERROR_TEXT)
NUMBER = integer()
SAMPLE_COUNT = integer(0, SECOND_US)
INTERVAL = Form(lambda value: int(value) if value == int(value) else value, _read_interval)
"""Seconds, not necessarily whole."""
ENCODING = Form(lambda packed: "zlib" if packed else "plain", _read_encoding)
"""Whether the payload is compressed."""


# --- times and lists by time ----------------------------------------------------------------


def _moment(key: str, value: Any, parse: Callable[[str], int]) -> int:
    if not isinstance(value, str):
        raise bad_value(key, value)
    try:
        return parse(value)
    except ValueError as error:
        raise bad_value(key, value) from error


MINUTE = Form(minute_text, lambda key, value: _moment(key, value, parse_minute))
SECOND = Form(second_text, lambda key, value: _moment(key, value, parse_second))


def _digests(moment: Form) -> Form:
    """``[[moment, count, md5], ...]``, ascending, counts from 1."""

    def read_entry(key: str, entry: Any) -> tuple[int, Digest]:
        if not isinstance(entry, list) or len(entry) != 3:
            raise bad_value(key, entry)
        when, count, md5 = entry
        if not isinstance(md5, str) or not _MD5_HEX.fullmatch(md5):
            raise bad_value(key, md5)
        return moment.read(key, when), Digest(_integer(key, count, 1, _MAX_NUMBER), md5)

    def read(key: str, value: Any) -> tuple[tuple[int, Digest], ...]:
        if not isinstance(value, list):
            raise bad_value(key, value)
        found = tuple(read_entry(key, entry) for entry in value)
        if any(a[0] >= b[0] for a, b in zip(found, found[1:])):
            raise RemoteProtocolError("bad_frame", f"{key!r} are not ascending")
        return found

    return Form(lambda listed: [[moment.write(m), d.count, d.md5] for m, d in listed], read)


def _read_ranges(key: str, value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RANGES:
        raise RemoteProtocolError("bad_frame", f"{key!r} must be 1 to {MAX_RANGES} ranges")
    end, found = 0, []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 2:
            raise bad_value(key, entry)
        start = _integer(key, entry[0], end, SECOND_US - 1)
        end = _integer(key, entry[1], start + 1, SECOND_US)
        found.append((start, end))
    return tuple(found)


MINUTE_DIGESTS = _digests(MINUTE)
SECOND_DIGESTS = _digests(SECOND)
RANGES = Form(_as_it_is, _read_ranges)
"""1 to MAX_RANGES half-open ranges of microseconds within a second, ascending."""
