"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from real_cassandra import RealCassandra


def need(program: str, package: str) -> str:
    """Path of a program; where it is missing the test is skipped, or fails where ``CI`` is set."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        message = f"{program} is missing: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


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
