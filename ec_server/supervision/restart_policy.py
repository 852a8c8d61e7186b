"""Decides when a process is restarted or killed; pure, with the time as an argument.

Rules:

1. A process that was ready and then died is restarted at once: its death is considered an accident, and
   senders are waiting. Only if it keeps dying within STABLE_S of being ready, pauses grow, up to
   LONGEST_PAUSE_AFTER_READY_S, so that it is back within two seconds even after the fiftieth death in a row.
2. A process that dies before it is ready probably has a defect: the pause begins at FIRST_PAUSE_S, doubles
   each time, and ends at LONGEST_PAUSE_S.
3. Being ready resets the count of failed boots; being ready for STABLE_S resets everything.
4. Each process has its own history, so that one that crashes in a loop does not delay others.
5. Until a process has been ready once, it can end the start of the whole server (``cannot_boot``): a server
   that never comes up must report it instead of trying indefinitely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
LONGEST_PAUSE_AFTER_READY_S = 0.2
STABLE_S = 3.0
RESTARTS_AT_ONCE = 3
"""Number of short lives in a row before pauses begin."""

BOOTS_AT_START = 5
"""Failed boots in a row that end the start, if the exit code does not end it earlier."""

REFUSALS = frozenset({EXIT_CONFIGURATION, EXIT_CANNOT_BOOT})
"""Exit codes with which a process reports that a restart is pointless until an operator acts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of the supervisor, in seconds."""

    silent_s: float = 10.0
    """For a heartbeat of a process that has been ready."""
    boot_s: float = 30.0
    """For a process to become ready, or to report what it waits for."""
    asleep_s: float = 3.0
    """After a gap of this length in its own loop, the supervisor knows that it did not run."""
    stop_s: float = 25.0
    """For everything to end after a stop was requested; what is left is killed."""
    receivers_stop_s: float = 18.0
    """The part of this for the receivers alone; then the others are asked to stop, too."""
    hurried_stop_s: float = 2.0
    """For everything to end after a stop was requested a second time."""


@dataclass(frozen=True, slots=True)
class Life:
    """When one process was started, was first seen ready (None: never), and ended."""

    started_s: float
    ready_s: float | None
    ended_s: float


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """The history of one worker's processes."""

    failed_boots: int = 0
    """Deaths before being ready, in a row."""
    short_lives: int = 0
    """Deaths within STABLE_S of being ready, since the last stable life."""

    def after(self, life: Life) -> RestartHistory:
        """The history with one more life added."""
        if life.ready_s is None:
            return replace(self, failed_boots=self.failed_boots + 1)
        if life.ended_s - life.ready_s >= STABLE_S:
            return RestartHistory()
        return RestartHistory(short_lives=self.short_lives + 1)

    def pause_s(self) -> float:
        """Seconds between the last death and the next start."""
        if self.failed_boots:
            return _doubled(self.failed_boots, LONGEST_PAUSE_S)
        return _doubled(self.short_lives - RESTARTS_AT_ONCE, LONGEST_PAUSE_AFTER_READY_S)


def cannot_boot(history: RestartHistory, exit_code: int) -> bool:
    """Whether a process that was never ready ends the server's start.

    ``exit_code`` is that of the last death in ``history``; negative for a signal.
    """
    return exit_code in REFUSALS or history.failed_boots >= BOOTS_AT_START


def why_hung(state: str, reason: str, alive_s: float, silent_s: float, limits: Limits) -> str | None:
    """Why a live process counts as hung; None if it does not.

    ``state`` and ``reason`` are those on its page, ``alive_s`` is the time since its start, ``silent_s`` that
    since its last heartbeat. A starting process that reports what it waits for, and whose heartbeat
    continues, may wait indefinitely, as the database may be unavailable.
    """
    waits = state == "starting" and reason and silent_s <= limits.silent_s
    if state == "starting" and alive_s > limits.boot_s and not waits:
        return f"is not ready {alive_s:.0f} s after its start (limit {limits.boot_s:g} s)"
    if state != "starting" and silent_s > limits.silent_s:
        return f"has not answered for {silent_s:.1f} s (limit {limits.silent_s:g} s)"
    return None


def _doubled(times: int, longest_s: float) -> float:
    """0 for no times, then FIRST_PAUSE_S, doubling, up to ``longest_s``."""
    if times <= 0:
        return 0.0
    return float(min(longest_s, FIRST_PAUSE_S * 2 ** min(times - 1, 32)))
