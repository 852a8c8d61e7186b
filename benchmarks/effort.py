"""How much a benchmark may do, and where it may keep its data."""

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
    """What the command line grants."""

    rounds: int
    """Times that each thing is measured; competitors take turns within a round."""
    seconds: float
    """About how long one measurement lasts."""
    folder: Path
    """On a real disk; each measurement has its own folder in it, removed afterwards."""
    gigabytes: float = 0.5
    """To what size a day's file is grown."""
    cassandra: bool = False
    """Whether a Cassandra node is started for the comparison with its driver."""
    questdb: bool = False
    """Whether QuestDB is fetched and compared with."""
    recordings: Sequence[Recorded] = ()
    """What is stored where the kind of signal matters; a synthetic household where there is none."""
    until_s: float = math.inf
    """``time.monotonic`` after which no further round is begun."""

    def each_round(self, most: int | None = None) -> Iterator[int]:
        """Numbers of rounds from 0: at least one, and no more than the time allows."""
        for number in range(self.rounds if most is None else min(self.rounds, most)):
            if number and time.monotonic() >= self.until_s:
                return
            yield number

    @contextmanager
    def fresh_folder(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="measured-", dir=self.folder)).resolve()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
