"""Decides when a process is restarted or killed; pure, the time is always an argument.

Rules:

1. A process that was ready and then died is started again at once: its death is an accident, and
   its senders are waiting. Only when it keeps dying within STABLE_S of being ready does a
   pause grow, to at most LONGEST_PAUSE_AFTER_READY_S, so that it is back within two seconds even
   after the fiftieth accident in a row.
2. A process that dies before it is ready has something wrong with it: the pause begins at
   FIRST_PAUSE_S, doubles each time, and ends at LONGEST_PAUSE_S.
3. Being ready forgives failed boots; being ready for STABLE_S forgives everything.
4. Each process has its own history: one that crashes in a loop does not delay others.
5. Until a process has been ready once, it can end the start of the whole server (``cannot_boot``):
   a server that never comes up must say so instead of trying for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
LONGEST_PAUSE_AFTER_READY_S = 0.2
STABLE_S = 3.0
RESTARTS_AT_ONCE = 3
"""Short lives in a row that are forgiven before a pause begins."""

BOOTS_AT_START = 5
"""Failed boots in a row that end the start, where the process did not say more by its exit code."""

REFUSALS = frozenset({EXIT_CONFIGURATION, EXIT_CANNOT_BOOT})
"""Exit codes with which a process reports that a restart is pointless until an operator acts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, in seconds, the supervisor waits for what."""

    silent_s: float = 10.0
    """For a sign of life from a process that has been ready."""
    boot_s: float = 30.0
    """For a process to become ready, or to say what it waits for."""
    asleep_s: float = 3.0
    """A gap in the supervisor's own loop that long means that it did not run meanwhile."""
    stop_s: float = 25.0
    """For everything to end after a stop was asked for; what is left is killed."""
    receivers_stop_s: float = 18.0
    """Of these, for the receivers alone; then the others are asked to stop too."""
    hurried_stop_s: float = 2.0
    """For everything to end after a stop was asked for a second time."""


@dataclass(frozen=True, slots=True)
class Life:
    """When one process was started, was first seen ready (None: never), and ended."""

    started_s: float
    ready_s: float | None
    ended_s: float


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """What is remembered of one worker's processes."""

    failed_boots: int = 0
    """Deaths before being ready, in a row."""
    short_lives: int = 0
    """Deaths within STABLE_S of being ready, since the last stable life."""

    def after(self, life: Life) -> RestartHistory:
        """The history with one more life in it."""
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

    ``exit_code`` of the death that ``history`` ends with; negative for a signal.
    """
    return exit_code in REFUSALS or history.failed_boots >= BOOTS_AT_START


def why_hung(state: str, reason: str, alive_s: float, silent_s: float, limits: Limits) -> str | None:
    """Why a live process counts as hung; None if it does not.

    ``state`` and ``reason`` are those on its page, ``alive_s`` the time since its start,
    ``silent_s`` since its last heartbeat. A process that is starting, says what it waits for and
    keeps answering may wait for as long as it takes: the database may be unavailable.
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
