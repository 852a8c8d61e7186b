"""Opens the storage engine that the configuration names."""

from __future__ import annotations

import re
from pathlib import Path

from configuration.settings import Settings
from ec_server.storage.contract import Store
from utilities import extras
from utilities.errors import ConfigurationError

_STORED = re.compile(r"(ec-[0-9]{8}\.sqlite|progress\.db).*")


def why_no_storage(settings: Settings) -> str:
    """What to tell who would read the data where there is no database at all; "" where there may be one."""
    if settings.storage_engine != "sqlite" or settings.storage_path.is_dir():
        return ""
    return (
        f"storage.path {str(settings.storage_path)!r} does not exist (from {Path.cwd()}): "
        "run this where the server runs, or name its configuration with -c"
    )


def refuse_stored_file(settings: Settings, path: Path) -> None:
    """ConfigurationError where writing to ``path`` would take the place of a file of the database."""
    if path.resolve().parent == settings.storage_path.resolve() and _STORED.fullmatch(path.name):
        raise ConfigurationError(f"{path} is a file of the database in storage.path: choose another name")


def open_store(settings: Settings, *, read_only: bool = False) -> Store:
    """A store for the calling thread; open it after the process has started.

    Raises StorageError if the database cannot be opened, ConfigurationError if the settings do not
    match the existing database or name an engine whose driver is not installed. A read-only store creates
    nothing.
    """
    if settings.storage_engine == "cassandra":
        if extras.is_missing("cassandra"):
            raise ConfigurationError(f"storage in Cassandra needs {extras.install_text('cassandra')}")
        from ec_server.storage.cassandra_opening import open_cassandra_store  # noqa: PLC0415 (slow import)

        return open_cassandra_store(settings, read_only=read_only)
    from ec_server.storage.sqlite_store import SqliteStore  # noqa: PLC0415 (not needed with Cassandra)

    return SqliteStore(
        settings.storage_path,
        read_only=read_only,
        synchronous=settings.storage_synchronous,
        min_free_bytes=settings.storage_min_free_mb * 2**20,
    )
