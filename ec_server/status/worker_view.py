"""Reads the pages of all workers into immutable views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ec_server.account.figures import SYNC_NAME, receiver_name
from ec_server.account.worker_page import WorkerPage

PAGE_SUFFIX = ".page"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The content of one worker's page at one moment; ``figures`` are one consistent step."""

    name: str
    expected: bool
    """Whether the worker is configured; False for pages that a former, larger configuration left."""
    state: str = ""
    """One of worker_page.STATES; "" if the page cannot be read."""
    reason: str = ""
    silent_s: float = 0.0
    """Seconds since its last heartbeat; negative if that was before the machine was started."""
    pid: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    fault: str = ""
    """Why the page could not be read; "" if it was."""


def expected_workers(receivers: int, *, synchronization: bool = True) -> tuple[str, ...]:
    """The names of the workers that must run besides the status server itself."""
    return (*map(receiver_name, range(receivers)), *((SYNC_NAME,) if synchronization else ()))


def read_workers(run_folder: Path, expected: Sequence[str]) -> tuple[WorkerView, ...]:
    """A view of each expected worker, in order, then of each other page in the folder.

    Pages of workers that are no longer configured still count what these received and stored.
    """
    others = sorted({path.stem for path in run_folder.glob(f"*{PAGE_SUFFIX}")} - set(expected))
    return (
        *(_read(run_folder, name, expected=True) for name in expected),
        *(_read(run_folder, name, expected=False) for name in others),
    )


def _read(run_folder: Path, name: str, *, expected: bool) -> WorkerView:
    try:
        page = WorkerPage.open(run_folder / f"{name}{PAGE_SUFFIX}")
    except FileNotFoundError:
        return WorkerView(name, expected, fault="it has no page: it was never started here")
    except (OSError, ValueError, TypeError) as error:
        return WorkerView(name, expected, fault=f"its page cannot be read: {error}")
    try:
        state, reason = page.state()
        return WorkerView(name, expected, state, reason, page.silent_for_s(), page.pid(), page.figures())
    except (IndexError, ValueError) as error:
        return WorkerView(name, expected, fault=f"its page is damaged: {error}")
    finally:
        page.close()
