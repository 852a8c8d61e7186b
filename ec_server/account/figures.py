"""The names of the figures that workers keep on their pages, and the worker names; pure."""

from __future__ import annotations

from ec_server.account.histograms import COMMIT_DURATION, NEWEST_SAMPLE_AGE, ROUND_DURATION
from utilities.model import RejectReason

REJECTED = {reason: f"rejected_{reason.value}" for reason in RejectReason}
"""The figure that counts each reason for a rejection."""

PORT_FIGURES: tuple[str, ...] = (
    "sip_connections",  # gauge
    "connections_evicted",
    "requests_refused",
    "requests_dropped",
)
"""What the SIP process counts besides ``received``; see worker_page.py."""

RECEIVER_FIGURES: tuple[str, ...] = (
    "stored",
    "duplicate",
    "spooled",  # batches in the spool now: decreases as they become stored or duplicate
    "lost",
    "samples_stored",
    "commits",
    "commit_us",  # time spent in commits, microseconds
    "write_failures",
    "settled_sequence",  # the last write call whose outcome is in these figures
    "quarantined",
    "taken_over",  # in this worker's spool, but received by one that no longer exists (negative there)
    "ring_position",  # where the unsettled part of the ring begins: in bytes
    "ring_count",  # and messages
    "spool_position",  # the last group drained from the spool whose outcome is in these figures
    *REJECTED.values(),
    *COMMIT_DURATION.figures,
    *NEWEST_SAMPLE_AGE.figures,
)

SYNC_FIGURES: tuple[str, ...] = (
    "connections",  # gauge
    "connections_total",
    "rejected_connections",
    "protocol_errors",
    "rounds",
    "minutes_compared",
    "seconds_repaired",
    "samples_fetched",
    "samples_repaired",
    "value_conflicts",
    "minutes_unresolved",  # gauge, all devices
    "minutes_unconfirmable",  # gauge, all devices
    "bytes_received",
    "bytes_sent",
    "digests_computed",
    "contradictions",
    "minutes_unreadable",
    "payload_bytes",  # gauge: payloads in memory, all connections
    "payload_waits",
    "packed_samples",
    "packed_rows",
    "pack_backlog_minutes",  # gauge: minutes old enough to be packed that are not
    "stored_bytes_rows",  # gauge
    "stored_bytes_blocks",  # gauge
    *ROUND_DURATION.figures,
)

RUN_FOLDER = "run"
"""Folder under ``storage.path`` that holds the pages."""


def receiver_name(number: int) -> str:
    """Name of the worker, its page (``<name>.page``) and its lines in the log."""
    return f"receiver-{number}"


SYNC_NAME = "sync"
STATUS_NAME = "status"


def settled(figures: dict[str, int]) -> int:
    """How many received messages are settled in a receiver's figures; the rest is queued."""
    rejected = sum(figures[name] for name in REJECTED.values())
    parts = ("stored", "duplicate", "spooled", "lost")
    return rejected + sum(figures[name] for name in parts) - figures["taken_over"]


def queued(figures: dict[str, int]) -> int:
    """Messages received and not yet settled."""
    return figures["received"] - settled(figures)
