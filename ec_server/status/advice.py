"""What an operator can do about a reason in health; pure. Matches words from health.py and the workers."""

from __future__ import annotations

_ADVICE = (
    ("is starting", "Wait a few seconds. If it stays, its log messages say what it waits for."),
    (
        "is slow",
        "Look for what else uses the disk or the processors; senders wait until writes are quick again.",
    ),
    ("is locked", "Another program holds the database; writes are tried again automatically."),
    ("takes no writes", "Free disk space, or check that the database is up; senders wait meanwhile."),
    ("disk", "Free disk space in storage.path, or lower storage.retention_days."),
    ("cassandra", "Check that the nodes are up and reachable; messages wait in the spool meanwhile."),
    (
        "not answered",
        "The launcher restarts it. If this repeats, look for a stalled disk or lack of memory.",
    ),
    ("no page", "Is the server running with this storage.path? Start it, or see its log for why it ended."),
    ("is dead", "The log says why it ended; the launcher starts it again, unless it cannot start at all."),
    ("is degraded", "The reason is in the line; the process continues by itself once the cause is gone."),
    ("storage", "The message names the file or the cluster; the log says more."),
)


def advice(reason: str) -> str:
    """One sentence that says what to do."""
    folded = reason.casefold()
    return next((text for words, text in _ADVICE if words in folded), "See the log of that process.")
