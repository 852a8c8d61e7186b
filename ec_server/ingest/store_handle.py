"""The writer's store: opened when needed, and again after a permanent error."""

from __future__ import annotations

from collections.abc import Callable

from ec_server.storage.contract import Store


class StoreHandle:
    """Not thread-safe."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Store | None = None

    @property
    def is_open(self) -> bool:
        """Whether the store is open."""
        return self._store is not None

    def store(self) -> Store:
        """The store. Raises StorageError if it is not open and cannot be opened."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def close(self) -> None:
        """Close it; the next ``store`` opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None
