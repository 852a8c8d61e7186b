"""What to do about a reason that health names; pure. The words are those of health.py and the workers."""

from __future__ import annotations

_ADVICE = (
    ("is starting", "Wait a few seconds. If it stays, its log lines say what it waits for."),
    (
        "is slow",
        "Look for what else uses the disk or the processors; senders wait until writes are quick again.",
    ),
    ("is locked", "Another program holds the database; the work is tried again by itself."),
    ("takes no writes", "Make room on the disk, or see that the database is up; senders wait meanwhile."),
    ("disk", "Make room on the disk of storage.path, or lower storage.retention_days."),
    ("cassandra", "See that the nodes are up and reachable; what arrives waits in the spool."),
    (
        "not answered",
        "The launcher restarts it. If this repeats, look for a stalled disk or lack of memory.",
    ),
    ("no page", "Is the server running with this storage.path? Start it, or see its log for why it ended."),
    ("is dead", "The log says why it ended; the launcher starts it again unless it cannot boot."),
    ("is degraded", "The reason is in the line; the process goes on by itself once it is gone."),
    ("storage", "The message names the file or the cluster; the log has more of it."),
)


def advice(reason: str) -> str:
    """One sentence that says what to do."""
    folded = reason.casefold()
    return next((text for words, text in _ADVICE if words in folded), "See the log of the process named.")
