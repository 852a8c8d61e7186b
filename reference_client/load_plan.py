"""Defines a load message by message, so that it is known what must be stored.

Message ``n`` belongs to device ``n % devices``, as its step ``n // devices``. The steps of a device fill its
seconds one after the other, from ``start`` on, so that no row occurs twice. The first value of each message
tells its number, so that the rows' contents differ, too (for six million messages, after which the values
repeat): as text one from 1000.000 on in steps of a thousandth, in binary ten million and more. Text has three
decimals throughout, as a meter prints it that knows its resolution.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from reference_client.message import (
    MICROSECONDS,
    MOST_SAMPLES_IN_BINARY,
    Values,
    binary_batches,
    text_batches,
)
from reference_client.waveform import Waveform

FORMATS = {"text44": (False, 44), "binary44": (True, 44), "binary300": (True, MOST_SAMPLES_IN_BINARY)}
"""Name to ``(whether binary, samples per message)``."""

WINDOWS = {"tcp": 128, "udp": 16}
"""Transport to the default number of unanswered messages per connection."""

_VARIANTS = 4
_NUMBERS = 6_000_000
# First values always have eight characters; in binary they are below 2**24, where whole numbers are exact.
_FIRST_THOUSANDTHS, _FIRST_BINARY = 1_000_000, 10_000_000


def _an_hour_ago() -> int:
    return int(time.time()) - 3600


def _own_prefix() -> str:
    return f"load-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One run of the load generator. Raises ValueError if its parts contradict each other."""

    host: str = "127.0.0.1"
    port: int = 34567
    transport: str = "tcp"
    devices: int = 8
    messages: int = 10_000
    rate: float | None = None
    """Messages per second, offered independently of answers as far as the window allows; None: as fast
    as answers arrive."""
    format: str = "text44"
    connections: int = 4
    """Number of sockets over all processes. A device uses only one of them, unless ``spread``."""
    spread: bool = False
    """Send messages over the connections in turn, so that those of a device arrive over many."""
    window: int = 0
    """The most unanswered messages per connection. 0: the default of the transport; small for UDP, as a
    server's receive buffer holds about 90 messages."""
    processes: int = 1
    start: int = field(default_factory=_an_hour_ago)
    """Epoch second of every device's first message."""
    prefix: str = field(default_factory=_own_prefix)
    """Device ids are ``<prefix>-0000`` and so on; by default a new prefix in each run."""
    late_s: float | None = None
    """With a rate: a message that cannot be sent this long after its time is left out, as a meter does that
    keeps nothing for later; None: each is sent, however late."""
    give_up_s: float = 32.0
    """Messages without an answer for this long count as lost (RFC 3261, timer F)."""

    def __post_init__(self) -> None:
        rules = (
            (self.transport in WINDOWS, f"transport {self.transport!r} is not one of {tuple(WINDOWS)}"),
            (self.format in FORMATS, f"format {self.format!r} is not one of {tuple(FORMATS)}"),
            (self.devices >= 1 and self.messages >= 0, "there must be at least one device"),
            (1 <= self.processes <= self.connections, "each process needs at least one connection"),
            (self.spread or self.connections <= self.devices, "more connections than devices need --spread"),
            (self.window >= 0, "the window must be at least one message"),
            (self.rate is None or self.rate > 0, "the rate must be above 0"),
            (10**9 <= self.start < 9 * 10**9, "the start must have ten digits"),
        )
        for holds, needed in rules:
            if not holds:
                raise ValueError(f"this load cannot be sent: {needed}")

    @property
    def messages_per_second(self) -> int:
        """How many messages fill a second of a device."""
        return len(prepared(self.format)[0])

    @property
    def open_messages(self) -> int:
        """The window that is used."""
        return self.window or WINDOWS[self.transport]

    def device_id(self, device: int) -> str:
        """The id of device 0, 1, ...; all of the same length."""
        return f"{self.prefix}-{device:0{max(4, len(str(self.devices - 1)))}d}"

    def place(self, number: int) -> tuple[int, int, int]:
        """``(device, second, slot)`` of a message; slots are the messages of a second."""
        step, device = divmod(number, self.devices)
        ahead, slot = divmod(step, self.messages_per_second)
        return device, self.start + ahead, slot

    def batch(self, number: int) -> tuple[str, int, str]:
        """``(device_id, second, canonical text)`` of the row that message ``number`` must become."""
        device, second, slot = self.place(number)
        part = prepared(self.format)[variant(device, second)][slot]
        first = first_text(FORMATS[self.format][0], number)
        text = f"{part.microsecond:06d},{first}{part.rest_of_text}"
        return self.device_id(device), second, text

    def batches(self) -> Iterator[tuple[str, int, str]]:
        """Every row of the run; those of each device in the order of sending."""
        return map(self.batch, range(self.messages))

    def numbers(self, connection: int) -> Iterator[int]:
        """The messages that one connection sends, in order."""
        if self.spread:
            yield from range(connection, self.messages, self.connections)
            return
        for first in range(0, self.messages, self.devices):
            yield from range(first + connection, min(first + self.devices, self.messages), self.connections)

    def share(self, connection: int) -> int:
        """How many messages one connection sends."""
        if self.spread:
            return len(range(connection, self.messages, self.connections))
        whole, rest = divmod(self.messages, self.devices)
        return whole * len(range(connection, self.devices, self.connections)) + len(
            range(connection, rest, self.connections)
        )


@dataclass(frozen=True, slots=True)
class Slot:
    """The SAMPLES of one message except for the first value, which takes ``value_bytes``."""

    microsecond: int
    before: bytes
    """The text before the first value."""
    after: bytes
    """The text after it, including the end mark."""
    rest_of_text: str
    """The canonical text after the first value."""
    length: int
    """Total length in bytes, including the first value."""


def first_text(binary: bool, number: int) -> str:
    """The canonical text of a message's first value."""
    if binary:
        return str(_FIRST_BINARY + number % _NUMBERS)
    whole, thousandths = divmod(_FIRST_THOUSANDTHS + number % _NUMBERS, 1000)
    return f"{whole}.{thousandths:03d}"


def first_value_bytes(binary: bool) -> Callable[[int], bytes]:
    """The function that encodes the first value: number of the message to bytes."""
    if binary:
        pack = struct.Struct("<f").pack
        return lambda number: pack(_FIRST_BINARY + number % _NUMBERS)
    return lambda number: b"%d.%03d" % divmod(_FIRST_THOUSANDTHS + number % _NUMBERS, 1000)


def variant(device: int, second: int) -> int:
    """Which of the prepared seconds a device sends in a second; they alternate."""
    return (7 * device + second) % _VARIANTS


@lru_cache(maxsize=len(FORMATS))
def prepared(form: str) -> tuple[tuple[Slot, ...], ...]:
    """Some seconds of samples, each split into the messages of a format."""
    waveform = Waveform(20_260_301)
    return tuple(_slots(form, waveform, second) for second in range(_VARIANTS))


def _slots(form: str, waveform: Waveform, second: int) -> tuple[Slot, ...]:
    binary, per_message = FORMATS[form]
    values = waveform.second(second)
    texts = text_batches(values, per_message) if binary else _three_decimals(values, per_message)
    packed = binary_batches(values, per_message) if binary else [text.encode("ascii") for text in texts]
    value_at, value_bytes = (4, 4) if binary else (7, 8)
    made = []
    for i, (text, batch) in enumerate(zip(texts, packed)):
        rest = text[text.index(";") :]
        before = batch[:value_at]
        after = (batch[8:] if binary else rest.encode("ascii")) + b"||"
        length = len(before) + value_bytes + len(after)
        made.append(Slot(int(MICROSECONDS[i * per_message]), before, after, rest, length))
    return tuple(made)


def _three_decimals(values: Values, per_message: int) -> list[str]:
    samples = [f"{us:06d},{value:.3f}" for us, value in zip(MICROSECONDS.tolist(), values.tolist())]
    return [";".join(samples[i : i + per_message]) for i in range(0, len(samples), per_message)]
