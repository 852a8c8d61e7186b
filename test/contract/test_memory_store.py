"""The memory engine keeps the storage contract."""

from __future__ import annotations

import pytest
from contract.store_suite import Opens, StoreSuite

from ec_server.storage.memory_store import MemoryStore


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def opens(self) -> Opens:
        store = MemoryStore()
        return lambda: store
