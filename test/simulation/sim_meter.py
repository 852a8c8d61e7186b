"""A simulated meter: records, sends messages, and answers through the reference meter's sans-IO side."""

from __future__ import annotations

import random
from dataclasses import replace

from sync_meter import MemoryMeter, Samples_, text_of

from ec_server.synchronization.frames import (
    Answer,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Auth,
    Challenge,
    Hello,
    Minutes,
    Samples,
    Seconds,
    Side,
    Verified,
    mac_of,
    samples_answer,
)
from ec_server.synchronization.session import Ended, Event, Session
from reference_client.sync_answerer import answer
from simulation.link import Link
from utilities.model import Digest
from utilities.utc import minute_of

Statement = dict[int, dict[int, Samples_] | None]
"""By minute, what an answer states of it: its seconds; None: a lie, which nobody can hold it to."""


class SimMeter(MemoryMeter):
    """What it recorded, and what it says of it."""

    def __init__(self, device_id: str, key: bytes, *, says_through: bool, chance: random.Random) -> None:
        super().__init__()
        self.device_id, self.key, self.says_through, self.chance = device_id, key, says_through, chance
        self.is_away = False
        self.lies = False
        self.stalls = False
        self.recorded_again: int | None = None
        """The earliest minute that changed since it was stated; said by ``through`` until a round ends."""
        self.stated_to = 0
        """Minutes before this one have been stated as final."""
        self.sent: set[tuple[int, int, str]] = set()
        """Every sample that it ever recorded, or sent as a lie."""
        self.statements: dict[int, Statement] = {}
        """By the number of the question, on this connection; the server's side takes them out."""
        self.link: Link | None = None
        self.session: Session | None = None
        self._waiting: list[bytes] = []

    # --- recording --------------------------------------------------------------------------------

    def record(self, second: int, *, is_recording: bool) -> Samples_:
        """One second; where it was stated already it is recorded again, and the server will hear of it."""
        samples = {self.chance.randrange(10**6): f"{self.chance.randrange(900)}.5" for _ in range(2)}
        self.change(second, samples)
        self.unfinished = minute_of(second) if is_recording and self.says_through else None
        return samples

    def change(self, second: int, samples: Samples_) -> None:
        """The second holds these samples from now on; none: it has lost them."""
        minute = minute_of(second)
        if minute < self.stated_to:
            self.recorded_again = min(minute, self.recorded_again or minute)
        if samples:
            self.seconds[second] = samples
        else:
            self.seconds.pop(second, None)
        self.sent |= {(second, us, value) for us, value in samples.items()}

    # --- what it says of itself: reference_client's Recorded ----------------------------------------

    def oldest(self) -> int | None:
        return None if self.is_away else super().oldest()

    def through(self) -> int | None:
        known = [m for m in (self.unfinished, self.recorded_again) if m is not None]
        return min(known, default=None)

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        if self.is_away:
            return []
        within = sorted({minute_of(s) for s in self.seconds if start <= s < stop})
        return [one for minute in within for one in super(SimMeter, self).minute_digests(minute, minute + 60)]

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        return [] if self.is_away else super().second_digests(minute)

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        return None if self.is_away else super().packed(second)

    # --- a connection -------------------------------------------------------------------------------

    def connect(self, link: Link) -> None:
        self.link, self.session = link, Session(Side.DEVICE)
        self.statements, self._waiting = {}, []
        link.ends["meter"] = self.receive
        self.session.send(Hello(self.device_id, self.oldest()))
        self.flush()

    @property
    def is_connected(self) -> bool:
        return self.session is not None and not self.session.ended

    def receive(self, data: bytes) -> None:
        if self.stalls and data:
            self._waiting.append(data)
        elif self.session is not None and not self.session.ended:
            self._take(self.session, data)

    def go_on(self) -> None:
        """After a stall."""
        self.stalls, waiting = False, self._waiting
        self._waiting = []
        for data in waiting:
            self.receive(data)

    def _take(self, session: Session, data: bytes) -> None:
        if data:
            session.receive_data(data)
        else:
            session.receive_eof()
        for event in session.events_received():
            self._react(session, event)
        self.flush()

    def flush(self) -> None:
        if self.session is not None and self.link is not None:
            self.link.send("server", self.session.data_to_send())

    def _react(self, session: Session, event: Event) -> None:
        if isinstance(event, AskMinutes | AskSeconds | AskSamples):
            session.send(self._answer(event))
        elif isinstance(event, Challenge):
            session.send(Auth(mac_of(self.key, event.nonce, self.device_id)))
        elif isinstance(event, Verified):
            if self.recorded_again is not None and event.through <= self.recorded_again:
                self.recorded_again = None
        elif isinstance(event, Ended) and self.link is not None:
            self.link.close("meter")

    def _answer(self, request: AskMinutes | AskSeconds | AskSamples) -> Answer:
        honest = answer(request, self)
        told = self._lie(request, honest) if self.lies and self.chance.random() < 0.5 else honest
        if isinstance(request, AskMinutes) and isinstance(told, Minutes):
            self._note_statement(request, told, is_lie=told != honest)
        return told

    def _note_statement(self, request: AskMinutes, told: Minutes, *, is_lie: bool) -> None:
        stop = request.stop if told.through is None else min(request.stop, told.through)
        listed = dict(told.digests)
        statement: Statement = {}
        for minute in {m for m in listed if m < stop} | {minute_of(s) for s in self.seconds}:
            if request.start <= minute < stop:
                seconds = {s: dict(v) for s, v in self.seconds.items() if minute_of(s) == minute}
                statement[minute] = None if is_lie else seconds if minute in listed else {}
        self.statements[request.id] = statement
        self.stated_to = max(self.stated_to, stop)

    # --- lies -----------------------------------------------------------------------------------------

    def _lie(self, request: AskMinutes | AskSeconds | AskSamples, honest: Answer) -> Answer:
        if isinstance(honest, Minutes | Seconds):
            told = [(moment, self._other(digest)) for moment, digest in honest.digests]
            return replace(honest, digests=tuple((m, digest) for m, digest in told if digest is not None))
        assert isinstance(request, AskSamples)
        how = self.chance.choice(["nothing", "other", "md5", "cut"])
        if how == "other":
            samples = {self.chance.randrange(10**6): "666"}
            self.sent |= {(request.second, us, value) for us, value in samples.items()}
            return samples_answer(request, text_of(samples), packed=True)
        if how == "md5" and honest.count:
            return replace(honest, md5="0" * 32)
        if how == "cut" and honest.count:
            return replace(honest, payload=honest.payload[:-1], length=honest.length - 1)
        return Samples(honest.id, honest.second, 0, "", False, 0)

    def _other(self, digest: Digest) -> Digest | None:
        lies = [digest, None, Digest(digest.count, "0" * 32), Digest(digest.count + 1, digest.md5)]
        return self.chance.choice(lies)
