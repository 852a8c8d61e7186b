"""Many message bodies at once: what ``message_body.parse`` says of each, for a fraction of the cost; pure.

The result is that of ``parse``, message by message, always. What stands here only finds, for a whole
group, the messages that are surely good: known devices, seconds in range, and samples of which
`text_group` or `binary_group` is sure. Every other message goes to ``parse`` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ec_server.ingest import binary_group, text_group
from ec_server.ingest.message_body import STRIDE, Limits, parse
from utilities.model import Batch, RawMessage, Rejection

_WORTH_IT = 8
"""Messages from which on the arrays cost less than they save."""
_KNOWN_IDS = 10_000

_Candidate = tuple[int, str, int, bytes]
"""A message's place in the group, device id, second, SAMPLES."""


class GroupParser:
    """``parse`` for groups of messages; remembers the device ids it has seen. One thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._device_ids: dict[bytes, str] = {}

    def parse(self, messages: Sequence[RawMessage], now_s: int) -> list[Batch | Rejection]:
        """The batch of each message, or why it is none; ``now_s`` is the receiver's clock."""
        found: list[Batch | None] = [None] * len(messages)
        if len(messages) >= _WORTH_IT:
            self._find_good(messages, now_s, found)
        return [
            known if known is not None else self._parse_one(message, now_s)
            for message, known in zip(messages, found)
        ]

    def _parse_one(self, message: RawMessage, now_s: int) -> Batch | Rejection:
        found = parse(message.body, self._limits, now_s, cut=message.cut)
        if isinstance(found, Batch) and len(self._device_ids) < _KNOWN_IDS:
            self._device_ids[found.device_id.encode("ascii")] = found.device_id
        return found

    def _find_good(self, messages: Sequence[RawMessage], now_s: int, found: list[Batch | None]) -> None:
        """Fill in the messages that are surely good."""
        texts, binaries = self._candidates(messages, now_s)
        md5, max_samples = hashlib.md5, self._limits.max_samples
        for kind, candidates in ((text_group, texts), (binary_group, binaries)):
            for some in _portions(candidates, kind.BYTES_AT_ONCE):
                known = kind.canonical_texts([samples for *_, samples in some])
                for (place, device_id, second, _), canonical in zip(some, known, strict=True):
                    if canonical is not None and canonical[1] <= max_samples:
                        text, count, start_us, end_us = canonical
                        checksum = md5(text, usedforsecurity=False).hexdigest()
                        found[place] = Batch(
                            device_id, second, start_us, end_us, text.decode("ascii"), count, checksum
                        )

    def _candidates(
        self, messages: Sequence[RawMessage], now_s: int
    ) -> tuple[list[_Candidate], list[_Candidate]]:
        """Messages of which all but SAMPLES is good: those that look like text, and surely binary ones."""
        earliest, latest = now_s - self._limits.max_back_s, now_s + self._limits.max_ahead_s
        device_ids, seconds = self._device_ids, dict[bytes, int]()
        texts: list[_Candidate] = []
        binaries: list[_Candidate] = []
        for place, message in enumerate(messages):
            fields = message.body.rstrip(b" \r\n").split(b"|", 2)
            if len(fields) != 3 or fields[2][-2:] != b"||":
                continue
            device_id = device_ids.get(fields[0])
            second = seconds.get(fields[1])
            if second is None and fields[1].isdigit() and len(fields[1]) <= 12:
                second = seconds[fields[1]] = int(fields[1])
            if device_id is None or second is None or not earliest <= second <= latest:
                continue
            samples = fields[2][:-2]
            if samples[6:7] == b",":
                texts.append((place, device_id, second, samples))
            elif samples[3:4] == b"\0" and len(samples) % STRIDE == STRIDE - 1:
                binaries.append((place, device_id, second, samples))
        return texts, binaries


def _portions(candidates: Sequence[_Candidate], room_bytes: int) -> Iterator[Sequence[_Candidate]]:
    """Some at a time, which take about so many bytes."""
    if candidates:
        average = sum(len(samples) for *_, samples in candidates) // len(candidates) + 1
        at_once = max(1, room_bytes // average)
        for first in range(0, len(candidates), at_once):
            yield candidates[first : first + at_once]
