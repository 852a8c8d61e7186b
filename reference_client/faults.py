"""Faults that are injected into a meter's messages, for demonstrations and tests.

All faults happen after recording, so the local store stays right, except for the fault that loses the store.
The faults of a second depend only on the seed, the device and the second.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

_LATE_US = (2_000, 40_000)
"""How long a message that is sent out of order is delayed."""


class Message(NamedTuple):
    """One message and when it is sent; ordered by that time."""

    due_us: int
    """When it is sent, in epoch microseconds of the meter's clock."""
    body: bytes


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Shares of messages (0 to 1), and times in seconds since the meter began."""

    drop: float = 0.0
    """Never sent."""
    twice: float = 0.0
    """Sent twice."""
    disorder: float = 0.0
    """Sent 2 to 40 ms late, after the following ones."""
    damage: float = 0.0
    """Sent with the sign of one sample inverted."""
    silent: tuple[tuple[float, float], ...] = ()
    """``[from, to)``: recorded, but not sent."""
    forget: tuple[float, ...] = ()
    """The local store loses everything recorded so far."""
    seed: int = 1

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """Any of ``drop=5%,twice=1%,disorder=1%,damage=0.1%,silent=60-120,forget=300,seed=7``.

        ``silent`` and ``forget`` may be repeated. Raises ValueError that names what is wrong.
        """
        plan = cls()
        parsed: Any
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name not in _PARSERS:
                raise ValueError(f"fault {name!r} is not one of {', '.join(_PARSERS)}")
            try:
                parsed = _PARSERS[name](value)
            except ValueError:
                raise ValueError(f"fault {part!r}: not {_EXPECTED[name]}") from None
            if isinstance(parsed, tuple):
                parsed = (*getattr(plan, name), *parsed)
            plan = replace(plan, **{name: parsed})
        return plan


class Faults:
    """Applies a plan to the seconds of one meter, and counts the faults. Not thread-safe."""

    def __init__(self, plan: FaultPlan, device_id: str) -> None:
        self._plan, self._device_id = plan, device_id
        self._forget = sorted(plan.forget)
        self.done: Counter[str] = Counter()
        """Number of messages by fault; ``forget``: how often the store was lost."""

    def forgets(self, elapsed_s: float) -> bool:
        """Whether to lose the local store now; True once for each time in the plan."""
        due = [moment for moment in self._forget if moment <= elapsed_s]
        del self._forget[: len(due)]
        self.done["forget"] += len(due)
        return bool(due)

    def apply(
        self, elapsed_s: float, second: int, messages: Sequence[Message], binary: bool
    ) -> list[Message]:
        """The messages of a second as they are to be sent, ascending in time."""
        plan = self._plan
        if any(start <= elapsed_s < stop for start, stop in plan.silent):
            self.done["silent"] += len(messages)
            return []
        if not (plan.drop or plan.twice or plan.disorder or plan.damage):
            return list(messages)
        chance = random.Random(f"{plan.seed}|{self._device_id}|{second}")  # noqa: S311 -- no secret
        leaving = [left for message in messages for left in self._one(message, chance, binary)]
        return sorted(leaving, key=lambda message: message.due_us)

    def _one(self, message: Message, chance: random.Random, binary: bool) -> list[Message]:
        plan = self._plan
        if chance.random() < plan.drop:
            self.done["drop"] += 1
            return []
        if chance.random() < plan.damage:
            self.done["damage"] += 1
            message = Message(message.due_us, damaged(message.body, chance, binary))
        if chance.random() < plan.disorder:
            self.done["disorder"] += 1
            message = Message(message.due_us + chance.randint(*_LATE_US), message.body)
        if chance.random() < plan.twice:
            self.done["twice"] += 1
            return [message, message]
        return [message]


def damaged(body: bytes, chance: random.Random, binary: bool) -> bytes:
    """A body with the sign of one sample inverted; it stays well-formed."""
    device, second, samples = body.split(b"|", 2)
    samples = samples.removesuffix(b"||")
    turn = _turn_binary if binary else _turn_text
    return b"%b|%b|%b||" % (device, second, turn(samples, chance))


def _turn_text(samples: bytes, chance: random.Random) -> bytes:
    listed = samples.split(b";")
    at = chance.randrange(len(listed))
    microsecond, value = listed[at].split(b",")
    turned = value[1:] if value.startswith(b"-") else b"-" + value
    listed[at] = b"%b,%b" % (microsecond, turned)
    return b";".join(listed)


def _turn_binary(samples: bytes, chance: random.Random) -> bytes:
    changed = bytearray(samples)
    changed[9 * chance.randrange((len(samples) + 1) // 9) + 7] ^= 0x80
    return bytes(changed)


def _share(text: str) -> float:
    share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= share <= 1:
        raise ValueError
    return share


def _moment(text: str) -> tuple[float, ...]:
    if not float(text) >= 0:
        raise ValueError
    return (float(text),)


def _span(text: str) -> tuple[tuple[float, float], ...]:
    start, stop = map(float, text.split("-"))
    if not 0 <= start < stop:
        raise ValueError
    return ((start, stop),)


_PARSERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("drop", "twice", "disorder", "damage"), _share),
    "silent": _span,
    "forget": _moment,
    "seed": int,
}
_EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(("drop", "twice", "disorder", "damage"), "a share such as 5% or 0.05"),
    "silent": "FROM-TO in seconds since the start",
    "forget": "seconds since the start",
    "seed": "a whole number",
}
assert set(_PARSERS) == {field.name for field in fields(FaultPlan)}
