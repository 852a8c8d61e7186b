"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from needs import need

if TYPE_CHECKING:
    from real_cassandra import RealCassandra


@pytest.fixture(scope="session")
def sipp() -> str:
    """The SIP peer of Debian's package sip-tester."""
    return need("sipp", "sip-tester")


@pytest.fixture(scope="session")
def kamailio() -> str:
    """The SIP proxy."""
    return need("kamailio", "kamailio")


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCassandra]:
    """A real Cassandra, started for the first test that asks."""
    import real_cassandra

    yield from real_cassandra.running(tmp_path_factory.mktemp("cassandra"))
