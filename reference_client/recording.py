"""Replays recordings of any rate and format at 44,000 samples per second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reference_client.message import SAMPLES_PER_SECOND, Values
from reference_client.recorded_values import open_values

MOST_RATE = 1_000_000


class Recording:
    """A recording that begins at a UTC second; one second is read at a time."""

    def __init__(
        self,
        path: Path,
        start: int,
        *,
        loop: bool = False,
        rate: int = SAMPLES_PER_SECOND,
        scale: float = 1.0,
    ) -> None:
        """Open the file; its first sample belongs to epoch second ``start``, microsecond 0.

        ``loop``: repeat the recording without a gap. ``rate`` is that of the file, if the file does not
        contain it; other rates are interpolated linearly. ``scale`` converts its values to watts. Raises
        OSError if the file cannot be read, ValueError if it is not a recording.
        """
        self.path, self.start, self.loop, self._scale = path, start, loop, scale
        self._values = open_values(path, rate)
        if not 1 <= self._values.rate <= MOST_RATE:
            raise ValueError(
                f"{path}: {self._values.rate} samples per second, 1 to {MOST_RATE:,} are allowed"
            )

    @property
    def seconds(self) -> int:
        """Its length in seconds, rounded up."""
        return -(-self._values.count // self._values.rate)

    def second(self, second: int) -> Values:
        """The values of a UTC second; none before the start and, without ``loop``, after the end.

        Raises ValueError for a value that is not finite, as servers reject it.
        """
        if second < self.start:
            return np.empty(0, np.float32)
        wanted = np.arange(SAMPLES_PER_SECOND, dtype=np.int64) + (second - self.start) * SAMPLES_PER_SECOND
        whole, rest = np.divmod(wanted * self._values.rate, SAMPLES_PER_SECOND)
        if not self.loop:
            there = whole + (rest > 0) < self._values.count
            whole, rest = whole[there], rest[there]
        values = self._interpolated(whole, rest)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path}: second {second - self.start} holds a value that is not finite")
        return values

    def _interpolated(self, whole: np.ndarray, rest: np.ndarray) -> Values:
        """The values at ``whole + rest / SAMPLES_PER_SECOND``, in units of the file's samples."""
        if not len(whole):
            return np.empty(0, np.float32)
        first = int(whole[0])
        source = self._read(first, int(whole[-1]) + 2)
        before = source[whole - first]
        if not rest.any():
            values = before
        else:
            after = source[np.minimum(whole - first + 1, len(source) - 1)]
            values = before + (after - before) * (rest / SAMPLES_PER_SECOND).astype(np.float32)
        scaled: Values = (values * np.float32(self._scale)).astype(np.float32)
        return scaled

    def _read(self, first: int, stop: int) -> Values:
        """The file's values ``[first, stop)``; with ``loop``, continuing at its beginning."""
        count = self._values.count
        if not self.loop:
            return self._values.read(first, min(stop, count))
        pieces = []
        while first < stop:
            at = first % count
            length = min(stop - first, count - at)
            pieces.append(self._values.read(at, at + length))
            first += length
        return np.concatenate(pieces)
