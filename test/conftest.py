"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from needs import need
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from real_cassandra import RealCassandra


class OneNodeScheduling(LoadScopeScheduling):
    """Under ``pytest -n`` the tests of one file run in one process, and those that need Cassandra in one.

    So what a file shares is made once, and one node serves all of its tests. They take longest, so they
    are handed out first.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cassandra" if any(word in file for word in ("cassandra", "move_data")) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneNodeScheduling:
    """See OneNodeScheduling."""
    return OneNodeScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: on Cassandra, then with whole processes, then the rest."""
    items.sort(key=lambda item: ("cassandra" not in item.nodeid, "/system/" not in item.nodeid))


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
