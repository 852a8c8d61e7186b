"""The journal of rounds, for the status page: one JSON line per round, with its result; bounded.

Only the sync process writes it. If it cannot be written or read, rounds and pages still work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

FILE_NAME = "rounds.jsonl"
_MOST_BYTES = 4 * 2**20
_TAIL_BYTES = 2**20

_log = logging.getLogger(__name__)


def note_round(run_folder: Path, line: Mapping[str, object]) -> None:
    """Append a round; a full file is renamed to ``.1``, replacing the previous one."""
    path = run_folder / FILE_NAME
    try:
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            path.replace(path.with_name(f"{FILE_NAME}.1"))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        _log.warning("cannot write the round to the journal: %s", error)


def latest_rounds(run_folder: Path, device_id: str, most: int) -> list[dict[str, object]]:
    """The latest rounds of a device, newest first."""
    found: list[dict[str, object]] = []
    for name in (FILE_NAME, f"{FILE_NAME}.1"):
        for line in _lines_from_the_end(run_folder / name):
            if line.get("device") == device_id:
                found.append(line)
            if len(found) == most:
                return found
    return found


def _lines_from_the_end(path: Path) -> Iterator[dict[str, object]]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            raw = file.read().splitlines()
    except OSError:
        return
    for line in reversed(raw):
        with suppress(ValueError):
            parsed = json.loads(line)
            if isinstance(parsed, dict):
                yield parsed
