"""Second and minute digests, computed from canonical text; pure.

Two rules, from docs/protocol.md:

* **Second digest**: (count, MD5 hex of the second's samples, ascending in the microsecond, each in
  canonical text, joined by ``;``). It does not depend on how the samples were cut into messages.
* **Minute digest**: (sum of counts, MD5 hex of the lines ``HHMMSS,count,md5\\n`` of the minute's
  non-empty seconds, ascending).

A second or minute without samples has no digest. MD5 protects against loss and damage, not against
forgery: keys, certificates and networks decide who may send.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from operator import lt

_SAMPLES = re.compile(r"(?:[0-9]{6},[^;]*+;)+")

Samples = dict[int, str]
"""The samples of one second: microsecond to value text."""


def md5_hex(text: str) -> str:
    """MD5 hex of ASCII text, as in the column ``values_checksum``."""
    return hashlib.md5(text.encode("ascii"), usedforsecurity=False).hexdigest()


def parse_canonical(text: str) -> Samples:
    """The samples in canonical text, in the order of the text.

    Anything that is not a sample (another program may have changed a row) is ignored.
    """
    return {
        int(sample[:6]): sample[7:]
        for sample in text.split(";")
        if sample[6:7] == "," and sample[:6].isdecimal()
    }


def format_canonical(samples: Samples) -> str:
    """The canonical text of samples given in any order, ascending in the microsecond."""
    return ";".join([f"{us:06d},{samples[us]}" for us in sorted(samples)])


def join_rows(rows: Iterable[tuple[int, int, str]], *, trusted: bool = True) -> str:
    """The second's canonical text from its rows, given in the order of insertion.

    A row is ``(start_us, end_us, canonical values)``. Where rows overlap, the value inserted last wins. If
    they are ``trusted`` to be canonical, rows that do not overlap are joined without being parsed.
    """
    oldest_first = list(rows)
    ascending = sorted(oldest_first, key=_start_us)
    if all(a[1] < b[0] for a, b in zip(ascending, ascending[1:])) and _fit(ascending):
        joined = ";".join([row[2] for row in ascending])
        if trusted or _is_ascending(joined):
            return joined
    merged: Samples = {}
    for row in oldest_first:
        merged.update(parse_canonical(row[2]))
    return format_canonical(merged)


def _start_us(row: tuple[int, int, str]) -> int:
    return row[0]


def _fit(rows: Iterable[tuple[int, int, str]]) -> bool:
    """Whether each row's text begins and ends with the microseconds that the row states."""
    return all(
        values.startswith(f"{start_us:06d},") and values.startswith(f"{end_us:06d},", values.rfind(";") + 1)
        for start_us, end_us, values in rows
    )


def _is_ascending(text: str) -> bool:
    """Whether the text consists of samples only, strictly ascending in the microsecond."""
    if not _SAMPLES.fullmatch(f"{text};"):
        return False
    microseconds = [sample[:6] for sample in text.split(";")]
    return all(map(lt, microseconds, microseconds[1:]))


def second_digest(text: str) -> tuple[int, str] | None:
    """(count, MD5 hex) of one second's canonical text; None if it is empty."""
    return (text.count(";") + 1, md5_hex(text)) if text else None


def minute_digest(seconds: Iterable[tuple[str, int, str]]) -> tuple[int, str] | None:
    """``(count, MD5 hex)`` over ``(HHMMSS, count, md5)`` of non-empty seconds, ascending; None if empty."""
    listed = list(seconds)
    if not listed:
        return None
    lines = "".join([f"{ec_time},{count},{md5}\n" for ec_time, count, md5 in listed])
    return sum([count for _, count, _ in listed]), md5_hex(lines)
