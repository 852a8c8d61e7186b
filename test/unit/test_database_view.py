"""Asking the database from an event loop: seldom, one at a time, and never forever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ec_server.status.database_view import DatabaseView
from ec_server.storage.memory_store import MemoryStore
from utilities.errors import RetryableStorageError
from utilities.model import DeviceRecord


class Database:
    """Counts what is asked of it; fails or hangs on demand."""

    def __init__(self) -> None:
        self.opened = self.asked = 0
        self.fault: Exception | None = None
        self.going = threading.Event()
        self.going.set()

    def open(self) -> MemoryStore:
        self.opened += 1
        return Asked(self)


class Asked(MemoryStore):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def devices(self) -> list[DeviceRecord]:
        self._database.asked += 1
        self._database.going.wait(10)
        if self._database.fault:
            raise self._database.fault
        return [DeviceRecord("meter-1", 1, 2)]


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.going.set()


def test_many_questions_at_once_are_one(database: Database) -> None:
    async def ask() -> None:
        view = DatabaseView(database.open)
        states = await asyncio.gather(*(view.state() for _ in range(50)))
        assert {state.devices for state in states} == {(DeviceRecord("meter-1", 1, 2),)}
        await view.state()
        view.close()

    asyncio.run(ask())
    assert (database.opened, database.asked) == (1, 1)


def test_an_old_answer_is_asked_for_again_over_the_same_store(database: Database) -> None:
    async def ask() -> None:
        view = DatabaseView(database.open, max_age_s=0)
        await view.state()
        await view.state()
        view.close()

    asyncio.run(ask())
    assert (database.opened, database.asked) == (1, 2)


@pytest.mark.parametrize("fault", [RetryableStorageError("no node answers"), RuntimeError("no node answers")])
def test_a_failure_is_an_answer_and_the_next_question_opens_the_store_again(
    database: Database, fault: Exception
) -> None:
    async def ask() -> None:
        view = DatabaseView(database.open, max_age_s=0)
        database.fault = fault
        assert (await view.state()).error == "no node answers"
        database.fault = None
        assert (await view.state()).error == ""
        view.close()

    asyncio.run(ask())
    assert database.opened == 2


def test_a_store_that_cannot_be_opened_is_an_answer() -> None:
    def refuse() -> MemoryStore:
        raise RetryableStorageError("no room")

    async def ask() -> None:
        view = DatabaseView(refuse)
        assert (await view.state()).error == "no room"
        view.close()

    asyncio.run(ask())


def test_a_database_that_hangs_is_an_answer_in_time_and_no_second_question(database: Database) -> None:
    async def ask() -> None:
        view = DatabaseView(database.open, max_age_s=0, patience_s=0.05)
        database.going.clear()
        for _ in range(3):
            assert "did not answer within 0.05 s" in (await view.state()).error
        database.going.set()
        while (await view.state()).error:
            await asyncio.sleep(0.01)
        view.close()

    asyncio.run(asyncio.wait_for(ask(), 10))
    assert database.opened == 1
