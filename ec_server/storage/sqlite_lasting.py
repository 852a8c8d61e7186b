"""Commits that survive a power failure although ``storage.synchronous`` is normal.

With ``normal``, a power failure may undo a file's last commits. For most of them that is harmless: lost rows
are fetched from the meter again, because the proof of their minute was recorded after them and is lost with
them. A commit that removes a verdict must not be lost: the minute would be proven again, without the rows
that were added since, and nobody would ask for them. Such a commit is synced to disk before it returns.

Only within a transaction does it become known whether it removes a verdict. It is then rolled back and
repeated with ``synchronous`` full. That is rare: a message has to arrive after its minute was proven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import apsw

from ec_server.storage.sqlite_connection import the_value

_Result = TypeVar("_Result")


class _MustLastError(Exception):
    """The transaction removes a verdict, and might not survive a power failure."""


class LastingCommits:
    """The commits of one connection."""

    def __init__(self, db: apsw.Connection, synchronous: str) -> None:
        self._db = db
        self._is_lasting = synchronous != "normal"
        """Whether a commit is durable as it is; with ``off``, for tests, durability is not wanted."""

    def run(self, write: Callable[[], _Result]) -> _Result:
        """Call ``write``, which is one transaction; if it calls ``must_last``, call it again with a sync."""
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
        """Within ``run``: say that the transaction removes a verdict."""
        if not self._is_lasting:
            raise _MustLastError
