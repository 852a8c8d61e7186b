"""Replays a recording: a one-dimensional ``.npy`` file of float32 watts at 44,000 samples a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reference_client.message import SAMPLES_PER_SECOND, Values


class Recording:
    """A recording that begins at a UTC second; read in place, a second at a time. Thread-safe."""

    def __init__(self, path: Path, start: int, *, loop: bool = False) -> None:
        """Open the file; its first sample belongs to epoch second ``start``, microsecond 0.

        ``loop``: after the last sample comes the first again, without a gap. Raises OSError where
        the file cannot be read, ValueError where it is not such an array.
        """
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype != np.float32:
            raise ValueError(f"{path} is not a one-dimensional .npy array of float32")
        if not len(values):
            raise ValueError(f"{path} holds no samples")
        self.path, self.start, self.loop = path, start, loop
        self._values = values

    @property
    def seconds(self) -> int:
        """Its length in seconds, a begun one counted whole."""
        return -(-len(self._values) // SAMPLES_PER_SECOND)

    def second(self, second: int) -> Values:
        """The values of one UTC second; none before the start and, without ``loop``, after the end.

        Raises ValueError for a value that is not finite: no server takes it.
        """
        first = (second - self.start) * SAMPLES_PER_SECOND
        if first < 0:
            return np.empty(0, np.float32)
        if self.loop:
            wanted = np.arange(first, first + SAMPLES_PER_SECOND) % len(self._values)
            values = np.asarray(self._values[wanted])
        else:
            values = np.array(self._values[first : first + SAMPLES_PER_SECOND])
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path}: second {second - self.start} holds a value that is not finite")
        return values
