"""Status processes for the tests of the status port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from status_process import Running, make_pages, serving


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serving(tmp_path_factory.mktemp("status"))


@pytest.fixture
def running(shared: Running) -> Running:
    """A process that the tests share, with pages of this test's own; its database keeps its devices."""
    make_pages(shared)
    for file in (shared.folder / "run").glob("*.devices.json"):
        file.unlink()
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A process of this test's own, for what spoils it."""
    yield from serving(tmp_path)
