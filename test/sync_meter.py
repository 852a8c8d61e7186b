"""For the synchronization's tests: a meter that records in memory, and a round without sockets."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ec_server.storage.contract import Store
from ec_server.storage.merge import batch_of
from ec_server.synchronization.coverage import Heard, RoundRules
from ec_server.synchronization.frames import (
    Answer,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Hello,
    Samples,
    Side,
    Verified,
    Welcome,
)
from ec_server.synchronization.round import compare, whole_round
from ec_server.synchronization.round_state import RoundResult, RoundTask
from ec_server.synchronization.session import Ended, Session
from ec_server.synchronization.steps import Ask, Collect, Note, Steps, Use
from reference_client.sync_answerer import answer
from utilities.errors import StorageError
from utilities.model import Batch, Digest
from utilities.utc import minute_of, second_text

NOON = 1_772_366_400  # 2026-03-01T12:00:00Z

Samples_ = dict[int, str]
"""One second's samples: microsecond to value text."""


def text_of(samples: Samples_) -> str:
    return ";".join(f"{us:06d},{samples[us]}" for us in sorted(samples))


def batch(device_id: str, second: int, samples: Samples_) -> Batch:
    return batch_of(device_id, second, text_of(samples))


def waveform(second: int, rate: int) -> Samples_:
    """A second at ``rate`` samples, each value its own."""
    return {i * 1_000_000 // rate: f"{(second * 7 + i) % 4000 / 10:.9g}" for i in range(rate)}


class MemoryMeter:
    """What a meter recorded, in a dictionary; digests by code that shares nothing with the server's."""

    def __init__(self, seconds: dict[int, Samples_] | None = None) -> None:
        self.seconds = seconds or {}
        self.unfinished: int | None = None

    def oldest(self) -> int | None:
        return minute_of(min(self.seconds)) if self.seconds else None

    def through(self) -> int | None:
        return self.unfinished

    def digest(self, second: int) -> Digest:
        text = text_of(self.seconds[second])
        return Digest(len(self.seconds[second]), hashlib.md5(text.encode()).hexdigest())

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        return [(s, self.digest(s)) for s in range(minute, minute + 60) if self.seconds.get(s)]

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        found = []
        for minute in range(start, stop, 60):
            seconds = self.second_digests(minute)
            lines = "".join(f"{second_text(s)[8:]},{d.count},{d.md5}\n" for s, d in seconds)
            if seconds:
                md5 = hashlib.md5(lines.encode()).hexdigest()
                found.append((minute, Digest(sum(d.count for _, d in seconds), md5)))
        return found

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        if not self.seconds.get(second):
            return None
        return self.digest(second), zlib.compress(text_of(self.seconds[second]).encode())

    def samples(self, second: int, ranges: Sequence[tuple[int, int]]) -> str:
        starts = [start for start, _ in ranges]

        def asked(us: int) -> bool:
            place = bisect_right(starts, us)
            return place > 0 and us < ranges[place - 1][1]

        return text_of({us: v for us, v in self.seconds.get(second, {}).items() if asked(us)})


@dataclass
class Crossed:
    """What went over the wire in a round."""

    requests: list[AskMinutes | AskSeconds | AskSamples] = field(default_factory=list)
    samples: int = 0
    bytes: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class Wire:
    """Two sessions joined by bytes; the meter answers at once."""

    def __init__(self, meter: MemoryMeter, distort: Callable[[Answer], Answer]) -> None:
        self.meter, self.distort, self.crossed = meter, distort, Crossed()
        self.server, self.device = Session(Side.SERVER), Session(Side.DEVICE)
        self.answers: dict[int, Answer] = {}
        self.next_id = 0
        self.device.send(Hello("meter-7", meter.oldest()))
        self.pump()
        self.server.send(Welcome(1800))
        self.pump()

    def pump(self) -> None:
        while data := self.server.data_to_send():
            self.crossed.bytes += len(data)
            self.device.receive_data(data)
            for event in self.device.events_received():
                if isinstance(event, AskMinutes | AskSeconds | AskSamples):
                    self.crossed.requests.append(event)
                    self.device.send(self.distort(answer(event, self.meter)))
            self._back()
        self._back()

    def _back(self) -> None:
        data = self.device.data_to_send()
        self.crossed.bytes += len(data)
        self.server.receive_data(data)
        for event in self.server.events_received():
            if isinstance(event, Ended):
                raise AssertionError(event)
            if hasattr(event, "id"):
                self.answers[event.id] = event
                self.crossed.samples += event.count if isinstance(event, Samples) else 0

    def ask(self, request: AskMinutes | AskSeconds | AskSamples) -> int:
        self.next_id += 1
        self.server.send(replace(request, id=self.next_id))
        self.pump()
        return self.next_id


def run_round(
    store: Store,
    meter: MemoryMeter,
    task: RoundTask,
    *,
    distort: Callable[[Answer], Answer] = lambda answer: answer,
    meanwhile: Callable[[object], None] = lambda command: None,
) -> tuple[RoundResult, Crossed]:
    """Drive a round to its end. ``meanwhile`` sees each command before it is carried out."""
    return drive(store, meter, compare(task, lambda: 0), distort=distort, meanwhile=meanwhile)


def drive(
    store: Store,
    meter: MemoryMeter,
    steps: Steps[RoundResult],
    *,
    distort: Callable[[Answer], Answer] = lambda answer: answer,
    meanwhile: Callable[[object], None] = lambda command: None,
) -> tuple[RoundResult, Crossed]:
    """Carry out the steps of a round between a store and a meter, over two sessions joined by bytes."""
    wire = Wire(meter, distort)
    crossed = wire.crossed
    go_on: Callable[[], object] = partial(steps.send, None)
    while True:
        try:
            command = go_on()
        except StopIteration as stop:
            assert not wire.server.unanswered
            assert not wire.answers, "answers that nobody collected"
            return stop.value, crossed
        meanwhile(command)
        result: object = None
        if isinstance(command, Ask):
            result = wire.ask(command.request)
        elif isinstance(command, Collect):
            result = wire.answers.pop(command.id)
        elif isinstance(command, Use):
            try:
                result = command.call(store)
            except StorageError as error:
                go_on = partial(steps.throw, error)
                continue
        elif isinstance(command, Note):
            for name, amount in command.figures.items():
                crossed.figures[name] = crossed.figures.get(name, 0) + amount
            crossed.log += [command.message] if command.message else []
        go_on = partial(steps.send, result)


class Connection:
    """One connection's rounds. The moments are the server's clock; ``true_s`` where that is wrong."""

    def __init__(self, store: Store, meter: MemoryMeter, rules: RoundRules) -> None:
        self.store, self.meter, self.rules = store, meter, rules
        self.oldest, self.heard, self.last_s = meter.oldest(), Heard(), 0.0

    def round(
        self,
        now_s: float,
        *,
        true_s: float | None = None,
        distort: Callable[[Answer], Answer] = lambda answer: answer,
        meanwhile: Callable[[object], None] = lambda command: None,
    ) -> tuple[Verified, Crossed]:
        moment_s = now_s if true_s is None else true_s
        since_last_s, self.last_s = moment_s - self.last_s, moment_s
        steps = whole_round("meter-7", self.oldest, self.rules, self.heard, lambda: now_s, since_last_s)
        result, crossed = drive(self.store, self.meter, steps, distort=distort, meanwhile=meanwhile)
        self.heard = result.heard
        return result.verified, crossed


def stored_samples(store: Store, device_id: str, start: int, stop: int) -> dict[int, Samples_]:
    """Everything stored, read row by row, the later insertion winning."""
    found: dict[int, Samples_] = {}
    for row, _, _ in store.rows(device_id, start, stop):
        samples = found.setdefault(row.second, {})
        samples.update({int(s[:6]): s[7:] for s in row.values.split(";")})
    return found
