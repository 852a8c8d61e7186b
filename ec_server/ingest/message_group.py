"""Many message bodies at once: what ``message_body.parse`` says of each, for a fraction of the cost; pure.

Rules:

1. The result is that of ``parse``, message by message, always. What follows only finds, for a whole
   group, the messages that are surely good: text bodies of plain decimal numbers. Every other message
   (binary, exponents, anything odd or wrong) goes to ``parse`` itself.
2. Good is decided on the bytes between the digits. Of all samples of all messages, joined and each
   ended by ``;``, only the bytes that are no digits are kept. Each such byte, the one before it, and
   how many digits stand between them must be a step of this table; together the steps leave nothing
   but ``UUUUUU,VALUE;`` again and again, VALUE being ``[+-]?digits(.digits)?``::

       before  byte    digits between
       ;       ,       6
       ,       + -     0
       , + -   .       1 or more
       , + - . ;       1 or more
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ec_server.ingest.message_body import Limits, parse
from ec_server.model import Batch, RawMessage, Rejection

_WORTH_IT = 8
"""Messages from which on the arrays cost less than they save."""
_AT_ONCE = 128
"""Messages in one set of arrays: with more, these no longer fit into the processor's cache."""
_LONGEST_SAMPLE = 200
"""Bytes; no plain number of so few digits is beyond a double."""
_KNOWN_IDS = 10_000

_Array = npt.NDArray[np.int64]

# Classes of bytes that are not digits; 0 is any other byte.
_OTHER, _COMMA, _SIGN, _POINT, _END = range(5)
_CLASS = np.zeros(256, dtype=np.uint8)
_CLASS[[ord(","), ord("+"), ord("-"), ord("."), ord(";")]] = [_COMMA, _SIGN, _SIGN, _POINT, _END]

# Which distances from one such byte to the next are wrong, by 5 * class before + class; _FAR is that or more.
_FAR = 15
_ANY = _FAR
_WRONG = np.ones((25, _FAR + 1), dtype=np.bool_)
_STEPS = (
    (_END, _COMMA, 7, 7),
    (_COMMA, _SIGN, 1, 1),
    (_COMMA, _POINT, 2, _ANY),
    (_SIGN, _POINT, 2, _ANY),
    (_COMMA, _END, 2, _ANY),
    (_SIGN, _END, 2, _ANY),
    (_POINT, _END, 2, _ANY),
)
for _before, _byte, _least, _most in _STEPS:
    _WRONG[5 * _before + _byte, _least : _most + 1] = False
_WRONG_AT = _WRONG.reshape(-1)


class GroupParser:
    """``parse`` for groups of messages; remembers the device ids it has seen. One thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._device_ids: dict[bytes, str] = {}

    def parse(self, messages: Sequence[RawMessage], now_s: int) -> list[Batch | Rejection]:
        """The batch of each message, or why it is none; ``now_s`` is the receiver's clock."""
        found: list[Batch | None] = [None] * len(messages)
        if len(messages) >= _WORTH_IT:
            self._find_plain(messages, now_s, found)
        return [
            known if known is not None else self._parse_one(message, now_s)
            for message, known in zip(messages, found)
        ]

    def _parse_one(self, message: RawMessage, now_s: int) -> Batch | Rejection:
        found = parse(message.body, self._limits, now_s, cut=message.cut)
        if isinstance(found, Batch) and len(self._device_ids) < _KNOWN_IDS:
            self._device_ids[found.device_id.encode("ascii")] = found.device_id
        return found

    def _find_plain(self, messages: Sequence[RawMessage], now_s: int, found: list[Batch | None]) -> None:
        """Fill in the messages that are surely good."""
        earliest, latest = now_s - self._limits.max_back_s, now_s + self._limits.max_ahead_s
        device_ids, seconds = self._device_ids, dict[bytes, int]()
        places: list[int] = []
        heads: list[tuple[str, int]] = []
        texts: list[bytes] = []
        for place, message in enumerate(messages):
            fields = message.body.rstrip(b" \r\n").split(b"|", 2)
            if len(fields) != 3 or fields[2][-2:] != b"||" or fields[2][6:7] != b",":
                continue
            device_id = device_ids.get(fields[0])
            second = seconds.get(fields[1])
            if second is None and fields[1].isdigit() and len(fields[1]) <= 12:
                second = seconds[fields[1]] = int(fields[1])
            if device_id is not None and second is not None and earliest <= second <= latest:
                places.append(place)
                heads.append((device_id, second))
                texts.append(fields[2][:-2])
        md5 = hashlib.md5
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            good, counts, start_us, end_us = _plain(some, self._limits.max_samples)
            for i in np.flatnonzero(good).tolist():
                text = some[i]
                found[places[first + i]] = Batch(
                    *heads[first + i],
                    start_us[i],
                    end_us[i],
                    text.decode("ascii"),
                    counts[i],
                    md5(text, usedforsecurity=False).hexdigest(),
                )


def _plain(
    texts: Sequence[bytes], max_samples: int
) -> tuple[npt.NDArray[np.bool_], list[int], list[int], list[int]]:
    """``(surely good, sample counts, first microseconds, last microseconds)`` of each text.

    The figures of a text that is not surely good mean nothing.
    """
    joined = b";" + b";".join(texts) + b";" + bytes(8)
    raw = np.frombuffer(joined, dtype=np.uint8)[: len(joined) - 8]
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 1)
    marks = np.flatnonzero((raw - 48) >= 10)  # bytes that are no digits (unsigned, so below "0" too)
    classes = _CLASS.take(raw.take(marks))
    steps = classes[:-1] * np.uint8(5) + classes[1:]
    digits = np.minimum(marks[1:] - marks[:-1], _FAR)
    wrong = marks[1:][_WRONG_AT.take(steps.astype(np.int64) * (_FAR + 1) + digits)]

    sample_ends = marks.compress(classes == _END)
    starts = sample_ends[:-1] + 1
    wrong_samples = starts[sample_ends[1:] - sample_ends[:-1] > _LONGEST_SAMPLE]
    # The eight bytes at each sample's start, as one number that ranks as its first six do.
    eight = np.ndarray((len(joined) - 7,), dtype=">u8", buffer=joined, strides=(1,))
    rank = eight[starts].astype(np.uint64) >> np.uint64(16)
    last = sample_ends.searchsorted(ends) - 1  # index of each text's last sample
    first = np.concatenate(([0], last[:-1] + 1))
    rises = np.ones(len(starts), dtype=bool)
    np.greater(rank[1:], rank[:-1], out=rises[1:])
    rises[first] = True
    counts = last - first + 1

    bad = np.concatenate((wrong, wrong_samples, starts[~rises]))
    good = counts <= max_samples
    if len(bad):
        good[np.searchsorted(ends, bad)] = False
    return good, counts.tolist(), _six_digits(raw, starts[first]), _six_digits(raw, starts[last])


def _six_digits(raw: npt.NDArray[np.uint8], at: _Array) -> list[int]:
    number = np.zeros(len(at), dtype=np.int64)
    for offset in range(6):
        number = number * 10 + (raw[np.minimum(at + offset, len(raw) - 1)] - np.uint8(48))
    found: list[int] = number.tolist()
    return found
