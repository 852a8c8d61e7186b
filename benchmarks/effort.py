"""How much a benchmark may do, and where its data may lie for that time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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

    @contextmanager
    def fresh_folder(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="measured-", dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
