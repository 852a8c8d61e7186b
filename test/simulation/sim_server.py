"""The simulated server: the sans-IO conversation and the rounds of each connection, on a store.

What peer.py, device_link.py and device_rounds.py do with sockets, threads and waiting is done here with the
simulated clock; every decision is the server's own code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from ec_server.storage.contract import Store
from ec_server.synchronization.coverage import Heard, RoundRules
from ec_server.synchronization.device_rounds import RETRY_S
from ec_server.synchronization.frames import Answer, Minutes, Samples, Seconds
from ec_server.synchronization.round import whole_round
from ec_server.synchronization.round_state import RoundResult
from ec_server.synchronization.server_conversation import Gate, Identified, ServerConversation
from ec_server.synchronization.session import Ended
from ec_server.synchronization.steps import Ask, Collect, Pause, Steps, Use
from simulation.link import Link
from simulation.timeline import Timeline
from utilities.errors import RetryableStorageError, StorageError

RULES = RoundRules(grace_s=10.0, back_days=400.0, retention_days=0)


class SimServer:
    """One life of the server's process after the other, on one store."""

    def __init__(
        self,
        timeline: Timeline,
        chance: random.Random,
        open_store: Callable[[], Store],
        keys: Mapping[str, bytes],
        interval_s: float,
        tick_s: float,
    ) -> None:
        self.timeline, self.chance, self.keys = timeline, chance, keys
        self.open_store, self.interval_s, self.tick_s = open_store, interval_s, tick_s
        self.store = open_store()
        self.off_s = 0.0
        self.database_is_away = False
        self.connections: dict[str, Connection] = {}
        self.all: list[Connection] = []
        self.on_answer: Callable[[str, Answer], None] = lambda *_: None
        self.on_round: Callable[[str], None] = lambda *_: None

    def wall_s(self) -> float:
        return self.timeline.now_s + self.off_s

    def accept(self, link: Link) -> None:
        self.all.append(Connection(self, link))

    def use(self, call: Callable[[Store], object]) -> object:
        if self.database_is_away:
            raise RetryableStorageError("away")
        return call(self.store)

    def restart(self) -> None:
        """The process dies: every connection, and what was known of it, is gone."""
        for connection in self.all:
            connection.die()
        self.all.clear()
        self.connections.clear()
        self.store.close()
        self.store = self.open_store()

    def identified(self, connection: Connection, device_id: str) -> None:
        former = self.connections.get(device_id)
        self.connections[device_id] = connection
        if former is not None:
            former.end("replaced", "the device has connected again")


class Connection:
    """One connection, from its first byte to its last."""

    def __init__(self, server: SimServer, link: Link) -> None:
        self.server, self.link = server, link
        gate = Gate(lambda _: None, lambda device: server.keys[device], server.interval_s)
        nonce = f"{server.chance.getrandbits(64):016x}"
        self.conversation = ServerConversation(gate, server.timeline.now_s, lambda: nonce)
        self.device_id, self.oldest = "", None
        self.is_over = False
        self.rounds: list[float] = []
        """When each round began that has ended."""
        self._answers: dict[int, Answer] = {}
        self._expected: set[int] = set()
        self._steps: Steps[RoundResult] | None = None
        self._waits_for: int | None = None
        self._heard, self._last_begun_s = Heard(), server.timeline.now_s
        link.ends["server"] = self.receive
        self._later(server.tick_s, self._tick)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self.server.timeline.after(delay_s, lambda: None if self.is_over else act())

    # --- bytes ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        if self.is_over:
            return
        now = self.server.timeline.now_s
        if not data:
            self.conversation.receive_eof(now)
        else:
            self.conversation.receive_data(data, now)
        self._act()
        while not self.is_over and (self.conversation.payload_expected or self.conversation.is_behind):
            before = self.conversation.payload_expected
            if before:
                self.conversation.release_payload()
            self.conversation.receive_data(b"", now)
            self._act()
            if self.conversation.payload_expected == before and not self.conversation.is_behind:
                break

    def _tick(self) -> None:
        self.conversation.tick(self.server.timeline.now_s)
        self._act()
        self._later(self.server.tick_s, self._tick)

    def _act(self) -> None:
        for happening in self.conversation.happenings():
            if isinstance(happening, Identified):
                self.device_id, self.oldest = happening.device_id, happening.oldest
                self.server.identified(self, happening.device_id)
                self._begin_round()
            elif isinstance(happening, Minutes | Seconds | Samples):
                self.server.on_answer(self.device_id, happening)
                self._answers[happening.id] = happening
            elif isinstance(happening, Ended):
                self._flush()
                self._close()
                return
        self._flush()
        if self._waits_for in self._answers:
            self._go_on(self._take_answer())

    def _flush(self) -> None:
        self.link.send("meter", self.conversation.data_to_send())

    def end(self, code: str, message: str) -> None:
        if not self.is_over:
            self.conversation.fail(code, message)
            self._act()

    def _close(self) -> None:
        self.die()
        self.link.close("server")

    def die(self) -> None:
        """Nothing more is done or said."""
        self.is_over = True
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        if self.server.connections.get(self.device_id) is self:
            del self.server.connections[self.device_id]

    # --- rounds -----------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        server, now = self.server, self.server.timeline.now_s
        for number in [number for number in self._expected if number in self._answers]:
            del self._answers[number]
            self._expected.discard(number)
        if self._expected:  # a round that the database broke off has left questions open
            self._later(1.0, self._begin_round)
            return
        since_s, self._begun_s = now - self._last_begun_s, now
        self._steps = whole_round(self.device_id, self.oldest, RULES, self._heard, server.wall_s, since_s)
        self._next_s = now + server.interval_s
        self._go_on(None)

    def _take_answer(self) -> Answer:
        assert self._waits_for is not None
        found = self._answers.pop(self._waits_for)
        self._expected.discard(found.id)
        self._waits_for = None
        return found

    def _go_on(self, result: object) -> None:
        """Carry out commands until one has to wait."""
        steps = self._steps
        while steps is not None and not self.is_over:
            try:
                command = steps.send(result)
                while isinstance(command, Use):
                    try:
                        result = self.server.use(command.call)
                    except StorageError as error:
                        command = steps.throw(error)
                    else:
                        command = steps.send(result)
            except StopIteration as stop:
                self._end_round(stop.value)
                return
            except StorageError:
                self._try_again()
                return
            result = None
            if isinstance(command, Ask):
                result = self.conversation.ask(command.request, self.server.timeline.now_s)
                self._expected.add(result)
                self._flush()
            elif isinstance(command, Collect):
                self._waits_for = command.id
                if command.id not in self._answers:
                    return
                result = self._take_answer()
            elif isinstance(command, Pause) and self.server.chance.random() < 0.2:
                self._later(self.server.chance.uniform(0, 3), lambda: self._go_on(None))
                return

    def _try_again(self) -> None:
        self._steps, self._waits_for = None, None
        self._later(min(RETRY_S, self.server.interval_s), self._begin_round)

    def _end_round(self, result: RoundResult) -> None:
        self._steps = None
        self._heard, self._last_begun_s = result.heard, self._begun_s
        self.rounds.append(self._begun_s)
        self.conversation.end_round(result.verified)
        self._flush()
        self.server.on_round(self.device_id)
        self._later(self._next_s - self.server.timeline.now_s, self._begin_round)
