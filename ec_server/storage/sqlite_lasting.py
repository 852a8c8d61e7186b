"""Commits that outlast a power failure although ``storage.synchronous`` is normal.

With it, a power failure may cost a file's last commits. Most of them may go: rows that are lost are fetched
from the meter again, since their minute's proof, which came after them, is lost with them. A commit that
takes a verdict away must not go: the file would be back in a state in which the minute is proven without what
came since, and nobody would ask for that. Such a commit is synced before it returns.

Whether a transaction takes a verdict away is found out within it. It is then given up, and done once more
with ``synchronous`` full. That is rare: it takes a message that comes after its minute was proven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import apsw

from ec_server.storage.sqlite_connection import the_value

_Result = TypeVar("_Result")


class _MustLastError(Exception):
    """The transaction takes a verdict away, and might not outlast a power failure."""


class LastingCommits:
    """Of one connection."""

    def __init__(self, db: apsw.Connection, synchronous: str) -> None:
        self._db = db
        self._is_lasting = synchronous != "normal"
        """Whether a commit of now lasts; with ``off``, for tests, nobody asks for it."""

    def run(self, write: Callable[[], _Result]) -> _Result:
        """Call ``write``, which is one transaction; a second time, synced, where it called ``must_last``."""
        try:
            return write()
        except _MustLastError:
            pass
        before = the_value(self._db.execute("PRAGMA synchronous"))
        self._db.execute("PRAGMA synchronous = full")
        self._is_lasting = True
        try:
            return write()
        finally:
            self._is_lasting = False
            self._db.execute(f"PRAGMA synchronous = {before}")

    def must_last(self) -> None:
        """Within ``run``: the transaction takes a verdict away."""
        if not self._is_lasting:
            raise _MustLastError
