"""Parses many message bodies at once, with the results of ``message_body.parse`` at a lower cost; pure.

The result for each message is always that of ``parse``. This module only finds those messages of a group that
are certainly valid: their second is in range, and `text_group` or `binary_group` is certain about their
samples. Every other message is passed to ``parse``.

Admission comes first: a message from a peer that may not send for the device is refused before anything else
of it is checked. Nothing is remembered from one group to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from ec_server.ingest import binary_group, text_group
from ec_server.ingest.message_body import STRIDE, Limits, device_id_of, parse
from utilities.model import Batch, RawMessage, Rejection

_WORTH_IT = 8
"""From this many messages on, the arrays save more than they cost."""

Admits = Callable[[str, RawMessage], Rejection | None]
"""Whether a message may be sent for a device id: None, or why not."""

_Candidate = tuple[int, str, int, bytes]
"""A message's index in the group, device id, second, SAMPLES."""


class GroupParser:
    """Admission and ``parse`` for groups of messages."""

    def __init__(self, limits: Limits, admits: Admits = lambda _device_id, _message: None) -> None:
        self._limits = limits
        self._admits = admits

    def parse(self, messages: Sequence[RawMessage], now_s: int) -> list[Batch | Rejection]:
        """The batch of each message, or its rejection; ``now_s`` is the receiver's clock."""
        found: list[Batch | Rejection | None] = [None] * len(messages)
        if len(messages) >= _WORTH_IT:
            self._find_good(messages, now_s, found)
        return [
            known if known is not None else self._parse_one(message, now_s)
            for message, known in zip(messages, found)
        ]

    def _parse_one(self, message: RawMessage, now_s: int) -> Batch | Rejection:
        device_id = device_id_of(message.body)
        refusal = self._admits(device_id, message) if device_id else None
        return refusal or parse(message.body, self._limits, now_s, cut=message.cut)

    def _find_good(
        self, messages: Sequence[RawMessage], now_s: int, found: list[Batch | Rejection | None]
    ) -> None:
        """Fill in the results of messages that are certainly valid, or are not admitted."""
        texts, binaries = self._candidates(messages, now_s, found)
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
        self, messages: Sequence[RawMessage], now_s: int, found: list[Batch | Rejection | None]
    ) -> tuple[list[_Candidate], list[_Candidate]]:
        """Messages that are valid except perhaps SAMPLES: those that look like text, and binary ones."""
        earliest, latest = now_s - self._limits.max_back_s, now_s + self._limits.max_ahead_s
        device_ids, seconds = dict[bytes, str](), dict[bytes, int]()
        texts: list[_Candidate] = []
        binaries: list[_Candidate] = []
        for place, message in enumerate(messages):
            fields = message.body.rstrip(b" \r\n").split(b"|", 2)
            if len(fields) != 3 or fields[2][-2:] != b"||":
                continue
            device_id = device_ids.get(fields[0])
            if device_id is None:
                device_id = device_ids[fields[0]] = device_id_of(message.body)
            if not device_id:
                continue
            if refusal := self._admits(device_id, message):
                found[place] = refusal
                continue
            second = seconds.get(fields[1])
            if second is None and fields[1].isdigit() and len(fields[1]) <= 12:
                second = seconds[fields[1]] = int(fields[1])
            if second is None or not earliest <= second <= latest:
                continue
            samples = fields[2][:-2]
            if samples[6:7] == b",":
                texts.append((place, device_id, second, samples))
            elif samples[3:4] == b"\0" and len(samples) % STRIDE == STRIDE - 1:
                binaries.append((place, device_id, second, samples))
        return texts, binaries


def _portions(candidates: Sequence[_Candidate], room_bytes: int) -> Iterator[Sequence[_Candidate]]:
    """Portions of the candidates, of about ``room_bytes`` each."""
    if candidates:
        average = sum(len(samples) for *_, samples in candidates) // len(candidates) + 1
        at_once = max(1, room_bytes // average)
        for first in range(0, len(candidates), at_once):
            yield candidates[first : first + at_once]
