"""What a load consists of, message by message, so that its sender can tell what must be stored.

Message ``n`` belongs to device ``n % devices`` and is that device's step ``n // devices``. A device's
steps fill its seconds one after the other, from ``start`` on: strictly advancing, no row twice. The
first value of each message is ten million and its own number, so rows differ in content too (for six
million messages, then again from the beginning).
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from reference_client.message import MICROSECONDS, MOST_SAMPLES_IN_BINARY, binary_batches, text_batches
from reference_client.waveform import Waveform

FORMATS = {"text44": (False, 44), "binary44": (True, 44), "binary300": (True, MOST_SAMPLES_IN_BINARY)}
"""Name: (binary?, samples per message)."""

WINDOWS = {"tcp": 128, "udp": 16}
"""Transport: unanswered messages per connection where nothing else is asked for."""

_VARIANTS = 4
# First values: always eight digits, and below 2**24, where whole numbers are exact as float32.
_FIRST, _NUMBERS = 10_000_000, 6_000_000


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
    """Messages per second, offered whatever comes back, as far as the window lets them; None: as fast
    as answers come."""
    format: str = "text44"
    connections: int = 4
    """Sockets over all processes. A device keeps to one of them unless ``spread``."""
    spread: bool = False
    """Messages go over the connections in turn, so that one device's arrive by many."""
    window: int = 0
    """Unanswered messages per connection at most. 0: what suits the transport; over UDP little, since
    a server's receive buffer holds about 90 messages."""
    processes: int = 1
    start: int = field(default_factory=_an_hour_ago)
    """Epoch second of every device's first message."""
    prefix: str = field(default_factory=_own_prefix)
    """Device ids are ``<prefix>-0000`` and so on; a new one each run unless given."""
    give_up_s: float = 32.0
    """An answer that takes longer is lost (RFC 3261, timer F)."""

    def __post_init__(self) -> None:
        rules = (
            (self.transport in WINDOWS, f"transport {self.transport!r} is none of {tuple(WINDOWS)}"),
            (self.format in FORMATS, f"format {self.format!r} is none of {tuple(FORMATS)}"),
            (self.devices >= 1 and self.messages >= 0, "at least one device"),
            (1 <= self.processes <= self.connections, "at least one connection a process"),
            (self.spread or self.connections <= self.devices, "more connections than devices: spread them"),
            (self.window >= 0, "a window of at least one message"),
            (self.rate is None or self.rate > 0, "a rate above 0"),
            (10**9 <= self.start < 9 * 10**9, "a start of ten digits"),
        )
        for holds, needed in rules:
            if not holds:
                raise ValueError(f"this load cannot be sent: {needed}")

    @property
    def messages_per_second(self) -> int:
        """How many messages fill one of a device's seconds."""
        return len(prepared(self.format)[0])

    @property
    def open_messages(self) -> int:
        """The window in force."""
        return self.window or WINDOWS[self.transport]

    def device_id(self, device: int) -> str:
        """The id of device 0, 1, ...; all have the same length."""
        return f"{self.prefix}-{device:0{max(4, len(str(self.devices - 1)))}d}"

    def place(self, number: int) -> tuple[int, int, int]:
        """``(device, second, slot)`` of a message; slots cut a second into messages."""
        step, device = divmod(number, self.devices)
        ahead, slot = divmod(step, self.messages_per_second)
        return device, self.start + ahead, slot

    def batch(self, number: int) -> tuple[str, int, str]:
        """``(device_id, second, canonical text)``: the row that message ``number`` must become."""
        device, second, slot = self.place(number)
        part = prepared(self.format)[variant(device, second)][slot]
        text = f"{part.microsecond:06d},{first_value(number)}{part.rest_of_text}"
        return self.device_id(device), second, text

    def batches(self) -> Iterator[tuple[str, int, str]]:
        """Every row of the run; each device's in the order in which they are sent."""
        return map(self.batch, range(self.messages))

    def numbers(self, connection: int) -> Iterator[int]:
        """The messages that one connection sends, in its order."""
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
    """One message's SAMPLES but for the first value, which takes ``value_bytes``."""

    microsecond: int
    before: bytes
    """The text before the first value."""
    after: bytes
    """The text after it, including the end mark."""
    rest_of_text: str
    """Canonical text behind the first value."""
    length: int
    """Bytes of all of it, the first value with it."""


def first_value(number: int) -> int:
    """What a message has as its first value."""
    return _FIRST + number % _NUMBERS


def first_value_bytes(binary: bool) -> Callable[[int], bytes]:
    """How the first value is written into a message: number of the message to bytes."""
    if binary:
        pack = struct.Struct("<f").pack
        return lambda number: pack(_FIRST + number % _NUMBERS)
    return lambda number: b"%d" % (_FIRST + number % _NUMBERS)


def variant(device: int, second: int) -> int:
    """Which of the prepared seconds a device sends in a second; the next one in the next."""
    return (7 * device + second) % _VARIANTS


@lru_cache(maxsize=len(FORMATS))
def prepared(form: str) -> tuple[tuple[Slot, ...], ...]:
    """Some seconds of samples, each cut into the messages of a format."""
    waveform = Waveform(20_260_301)
    return tuple(_slots(form, waveform, second) for second in range(_VARIANTS))


def _slots(form: str, waveform: Waveform, second: int) -> tuple[Slot, ...]:
    binary, per_message = FORMATS[form]
    values = waveform.second(second)
    texts = text_batches(values, per_message)
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
