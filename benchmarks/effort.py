"""How much a benchmark may do, and where it keeps its data."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Recorded = tuple[str, int, npt.NDArray[np.float32] | None]
"""Name, samples per second, values."""


@dataclass(frozen=True, slots=True)
class Effort:
    """The limits from the command line."""

    rounds: int
    """How often everything is measured; competitors take turns within a round."""
    seconds: float
    """Approximate duration of one measurement."""
    folder: Path
    """A folder on a real disk; each measurement has its own subfolder, which is removed afterwards."""
    gigabytes: float = 0.5
    """To what size a day's file is grown."""
    cassandra: bool = False
    """Whether to start a Cassandra node, for the comparison with its driver."""
    questdb: bool = False
    """Whether to fetch QuestDB and compare with it."""
    recordings: Sequence[Recorded] = ()
    """Recordings for measurements that depend on the signal; if there are none, a synthetic household."""
    until_s: float = math.inf
    """``time.monotonic`` after which no round is begun."""

    def each_round(self, most: int | None = None) -> Iterator[int]:
        """Numbers of rounds from 0: at least one, and no more than the time allows."""
        for number in range(self.rounds if most is None else min(self.rounds, most)):
            if number and time.monotonic() >= self.until_s:
                return
            yield number

    @contextmanager
    def fresh_folder(self) -> Iterator[Path]:
        """An empty folder, which is removed afterwards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="measured-", dir=self.folder)).resolve()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
