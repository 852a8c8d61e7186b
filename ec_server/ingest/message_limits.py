"""What the configuration says of the messages that are taken, and whether a body is one of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from configuration.settings import Settings
from ec_server.ingest.message_body import Limits, parse
from utilities.model import Batch
from utilities.utc import DAY_S


def limits_of(settings: Settings) -> Limits:
    """What retention would remove at once is not taken."""
    max_back_days = settings.ingest_max_back_days
    if settings.storage_retention_days:
        max_back_days = min(max_back_days, settings.storage_retention_days)
    return Limits(
        int(settings.ingest_max_ahead_days * DAY_S),
        int(max_back_days * DAY_S),
        settings.ingest_max_samples,
    )


def valid_within(limits: Limits) -> Callable[[bytes], bool]:
    """Whether a message of this body would be stored, if its device may send."""
    return lambda body: isinstance(parse(body, limits, int(time.time())), Batch)
