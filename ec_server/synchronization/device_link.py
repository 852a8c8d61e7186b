"""The requests to one identified device and its answers, for the rounds that wait for them.

It connects the conversation, which never waits, with the steps of rounds (steps.py), which know nothing of
connections. Used from one event loop; ``perform`` is cancelled when the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ec_server.synchronization.frames import Answer, Request, Samples, Verified
from ec_server.synchronization.payload_memory import PayloadMemory
from ec_server.synchronization.peer import Peer
from ec_server.synchronization.steps import Ask, Collect, Note, Steps
from ec_server.synchronization.store_threads import Finished, StoreThreads

_Result = TypeVar("_Result")


class DeviceLink:
    """The connection of one device, for its rounds."""

    def __init__(
        self,
        peer: Peer,
        device_id: str,
        oldest: int | None,
        threads: StoreThreads,
        memory: PayloadMemory,
        monotonic: Callable[[], float],
        told: Callable[[Note, str], None],
    ) -> None:
        """``oldest``: the first minute that the device offers. ``told`` is called with each round's Notes."""
        self.device_id, self.oldest = device_id, oldest
        self._peer, self._threads, self._memory, self._monotonic = peer, threads, memory, monotonic
        self._told = told
        self._answers: dict[int, asyncio.Future[Answer]] = {}

    def answered(self, answer: Answer) -> None:
        """Take an answer that arrived."""
        self._answers[answer.id].set_result(answer)

    async def perform(self, steps: Steps[_Result]) -> _Result:
        """Run the steps of a round with this device; returns their result.

        Raises StorageError. Cancelled when the connection ends.
        """
        await self._drop_former_answers()
        result: object = None
        in_use = object()
        """Holds the memory of the payloads that the steps have taken and not finished with."""
        try:
            while True:
                turn = await self._threads.turn(steps, result)
                for note in turn.notes:
                    self._told(note, self.device_id)
                command, result = turn.command, None
                if isinstance(command, Finished):
                    return command.value
                if isinstance(command, Ask):
                    result = self._ask(command.request)
                elif isinstance(command, Collect):
                    result = await self._collect(command.id, in_use)
                else:
                    self._memory.forget(in_use)
        finally:
            steps.close()
            self._memory.forget(in_use)

    async def _collect(self, number: int, in_use: object) -> Answer:
        answer = await self._answers[number]
        del self._answers[number]
        if isinstance(answer, Samples):
            self._memory.move(self._peer, in_use, answer.length)
        return answer

    async def _drop_former_answers(self) -> None:
        """Wait for answers that a round left open when the database failed, and discard them."""
        for future in list(self._answers.values()):
            answer = await future
            if isinstance(answer, Samples):
                self._memory.give_back(self._peer, answer.length)
        self._answers.clear()

    def _ask(self, request: Request) -> int:
        number = self._peer.conversation.ask(request, self._monotonic())
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._peer.flush()
        return number

    def end_round(self, verified: Verified) -> None:
        """Tell the device that a round has ended."""
        self._peer.conversation.end_round(verified)
        self._peer.flush()
