"""Puts known samples into a real day file, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ec_server.storage.contract import Store
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore

MINUTE = 1_772_366_400
"""2026-03-01 12:00 UTC."""


def store_second(store: Store, device_id: str, second: int, texts: Sequence[str]) -> None:
    """One call per message, so that later ones rank after earlier ones."""
    for text in texts if len(texts) < 10 else ():
        store.ingest([batch_of(device_id, second, text)])
    if len(texts) >= 10:
        store.ingest([batch_of(device_id, second, text) for text in texts])


def stored_folder(folder: Path, device_id: str, seconds: Mapping[int, Sequence[str]]) -> Path:
    """A ``storage.path`` that holds these seconds, each as its messages' canonical texts."""
    with SqliteStore(folder) as store:
        for second, texts in seconds.items():
            store_second(store, device_id, second, texts)
        store.note_devices({device_id: max(seconds) * 1_000_000})
    return folder
