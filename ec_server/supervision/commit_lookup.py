"""Asks the database for the last commit of a writer that died.

The database is opened for the one question, and only read: the launcher stays small, holds no file
that a receiver works on, and checkpoints nothing.
"""

from __future__ import annotations

from configuration.settings import Settings
from ec_server.supervision.account import CommittedMark


def commit_lookup(settings: Settings) -> CommittedMark:
    """A function that looks a commit mark up with the engine of ``settings``.

    It answers None where the engine keeps no marks, and raises StorageError where it cannot be read.
    """

    def committed_mark(day: int, writer: str) -> tuple[int, int, int] | None:
        if settings.storage_engine == "cassandra":
            return None  # It keeps no marks, and reaching it takes longer than a receiver may be away.
        from ec_server.storage.engines import open_store  # noqa: PLC0415 (seldom needed, and large)

        with open_store(settings, read_only=True) as store:
            return store.committed_mark(day, writer)

    return committed_mark
