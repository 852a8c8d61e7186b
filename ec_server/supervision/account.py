"""Settles a dead receiver's page, so that everything it received is accounted for.

Rules:

1. Only a page whose writer is dead is settled, and before its replacement starts.
2. A receiver notes on its page which write it is about to commit. Died it between the commit and
   the note of its outcome, the database knows: the commit mark, written in the same transaction.
3. What then is received and not settled was in the dead process's memory only: it is ``lost``. The
   synchronization brings it back, as new batches.
4. All of it is one step on the page: a launcher that dies in the middle leaves it to the next.
5. Where the database cannot be asked, the write in doubt counts as lost: never more than was
   received, never twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ec_server.status.figures import queued
from ec_server.status.worker_page import WorkerPage

CommittedMark = Callable[[int, str], tuple[int, int, int] | None]
"""``(day, writer)`` to ``(sequence, stored, duplicate)`` of that writer's last commit on that day."""

_log = logging.getLogger(__name__)


def settle(page: WorkerPage, committed_mark: CommittedMark) -> int:
    """Account for everything a dead receiver left open on its page; returns how many batches it lost.

    The page's name is the writer's name in the database. ``committed_mark`` is called only where a
    commit is in doubt; whatever it raises is logged. Settling a settled page changes nothing.
    """
    figures = page.figures()
    open_batches = queued(figures)
    changes: dict[str, int] = {}
    day, sequence = page.intent()
    if sequence > figures["settled_sequence"]:
        stored, duplicate = _outcome(page.path.stem, day, sequence, committed_mark, open_batches)
        changes = {
            "stored": stored,
            "duplicate": duplicate,
            "settled_sequence": sequence - figures["settled_sequence"],
        }
        open_batches -= stored + duplicate
    if open_batches < 0:
        _log.error("%s: more is settled than was received (%d too many)", page.path.stem, -open_batches)
    lost = max(0, open_batches)
    if changes or lost:
        page.apply({**changes, "lost": lost})
    return lost


def settle_former_run(run_folder: Path, committed_mark: CommittedMark) -> int:
    """Settle every receiver's page under ``run_folder`` and mark all workers there as dead.

    For the launcher's start, when no worker is alive: a former launcher may have been killed with
    all its children. Returns how many batches were lost. A file that is not a usable page is named
    in the log and left alone.
    """
    lost = 0
    for path in sorted(run_folder.glob("*.page")):
        try:
            lost += _settle_file(path, committed_mark)
        except (OSError, ValueError, KeyError, IndexError) as error:
            _log.warning("%s cannot be accounted for, its figures are left as they are: %s", path, error)
    return lost


def _settle_file(path: Path, committed_mark: CommittedMark) -> int:
    page = WorkerPage.open(path)
    try:
        lost = settle(page, committed_mark) if path.stem.startswith("receiver-") else 0
        if lost:
            _log.warning("%s: %d batches of the former run were lost with it", path.stem, lost)
        if page.state()[0] != "dead":
            page.set_state("dead", "ended with a former run")
        return lost
    finally:
        page.close()


def _outcome(
    writer: str, day: int, sequence: int, committed_mark: CommittedMark, at_most: int
) -> tuple[int, int]:
    """``(stored, duplicate)`` of the write in doubt; (0, 0) where it did not commit or nobody knows."""
    try:
        mark = committed_mark(day, writer)
    except Exception as error:
        # Whatever the engine raises, this must not end the launcher, and the server with it.
        _log.error("%s: write %d is in doubt and counts as lost: %s", writer, sequence, error)
        return 0, 0
    if mark is None or mark[0] != sequence:
        return 0, 0
    _, stored, duplicate = mark
    if stored + duplicate > at_most:
        _log.error("%s: write %d settles %d of %d open", writer, sequence, stored + duplicate, at_most)
        return 0, 0
    return stored, duplicate
