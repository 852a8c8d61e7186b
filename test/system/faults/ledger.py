"""What a meter recorded and sent, so that what is stored can be compared with it row by row.

Digests are computed here from the samples, by code that shares nothing with the server's.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from utilities.model import Digest
from utilities.utc import MINUTE_S, minute_of, second_text


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of a meter: the row that it must become."""

    second: int
    samples: tuple[tuple[int, str], ...]
    """Microsecond and canonical value, ascending."""

    @property
    def text(self) -> str:
        """Its canonical text."""
        return ";".join(f"{us:06d},{value}" for us, value in self.samples)


class Ledger:
    """Any thread may call; what was recorded once does not change."""

    def __init__(self, device_id: str, first_second: int) -> None:
        self.device_id = device_id
        self.first_second = first_second
        self._seconds: dict[int, dict[int, str]] = {}
        self._unfinished: int | None = minute_of(first_second)
        self._lock = threading.Lock()

    def record(self, sent: Sent) -> None:
        """Add a message's samples; seconds come in order."""
        with self._lock:
            self._seconds.setdefault(sent.second, {}).update(sent.samples)
            self._unfinished = minute_of(sent.second)

    def finish(self) -> None:
        """Nothing more will be recorded."""
        with self._lock:
            self._unfinished = None

    def seconds(self) -> dict[int, dict[int, str]]:
        """Everything recorded so far: second to microsecond to value."""
        with self._lock:
            return {second: dict(samples) for second, samples in self._seconds.items()}

    def minutes(self) -> list[int]:
        """The minutes of which something is recorded, ascending."""
        with self._lock:
            return sorted({minute_of(second) for second in self._seconds})

    def text(self, second: int) -> str:
        """The second's canonical text; "" if it has none."""
        with self._lock:
            samples = self._seconds.get(second, {})
            return ";".join(f"{us:06d},{samples[us]}" for us in sorted(samples))

    # --- what the synchronization asks (reference_client.sync_answerer.Recorded) ----------------

    def oldest(self) -> int | None:
        """The first minute."""
        return minute_of(self.first_second)

    def through(self) -> int | None:
        """The minute that is being recorded."""
        return self._unfinished

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        """By minute."""
        found = []
        for minute in self.minutes():
            if start <= minute < stop:
                seconds = self.second_digests(minute)
                lines = "".join(f"{second_text(s)[8:]},{d.count},{d.md5}\n" for s, d in seconds)
                found.append((minute, Digest(sum(d.count for _, d in seconds), _md5(lines))))
        return found

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        """By second."""
        with self._lock:
            seconds = sorted(s for s in self._seconds if minute <= s < minute + MINUTE_S)
        return [(second, self._digest(second)) for second in seconds]

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        """A whole second."""
        text = self.text(second)
        return (self._digest(second), zlib.compress(text.encode())) if text else None

    def samples(self, second: int, ranges: Sequence[tuple[int, int]]) -> str:
        """Parts of a second."""
        with self._lock:
            samples = dict(self._seconds.get(second, {}))
        asked = [us for us in sorted(samples) if any(start <= us < stop for start, stop in ranges)]
        return ";".join(f"{us:06d},{samples[us]}" for us in asked)

    def _digest(self, second: int) -> Digest:
        text = self.text(second)
        return Digest(text.count(",") if text else 0, _md5(text))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
