"""Digests of stored seconds and minutes, for every engine alike; pure.

utilities/checksum_util.py says what they are. Which of them an engine has cached, and whether those hold,
is the engine's business: it depends on how the engine tells that rows have changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from utilities.checksum_util import minute_digest, second_digest
from utilities.model import Digest
from utilities.utc import ec_time


def digest_of_second(text: str) -> Digest | None:
    """The digest of a second's canonical text; None if it has no samples."""
    digest = second_digest(text)
    return Digest(*digest) if digest else None


def digest_of_minute(seconds: Iterable[tuple[int, Digest]]) -> Digest | None:
    """The digest of a minute's non-empty seconds, ascending; None if there are none."""
    digest = minute_digest((ec_time(second), one.count, one.md5) for second, one in seconds)
    return Digest(*digest) if digest else None
