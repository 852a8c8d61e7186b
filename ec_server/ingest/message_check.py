"""From messages to batches: parsed, admitted, or rejected with reason, count and a line in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ec_server.account.figures import REJECTED
from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_group import GroupParser
from ec_server.ingest.quarantine import Quarantine
from utilities.log import RateLimit
from utilities.model import Batch, RawMessage, Rejection, RejectReason

Admits = Callable[[str, RawMessage], Rejection | None]
"""Whether a message may come in the name of a device id: None, or why not."""

_SAMPLES_KEPT_FOR = frozenset((RejectReason.TIME_TOO_FAR_AHEAD, RejectReason.TIME_TOO_FAR_BACK))

_log = logging.getLogger(__name__)


class MessageCheck:
    """One thread."""

    def __init__(self, limits: Limits, admits: Admits, quarantine: Quarantine) -> None:
        self._admits = admits
        self._quarantine = quarantine
        self._parser = GroupParser(limits)
        self._log_limit = RateLimit()

    def check(self, messages: Sequence[RawMessage]) -> tuple[list[Batch], Counter[str]]:
        """The batches in the messages' order, and the figures of what was rejected."""
        batches: list[Batch] = []
        rejected: Counter[str] = Counter()
        for message, found in zip(messages, self._parser.parse(messages, int(time.time()))):
            if isinstance(found, Batch):
                refusal = self._admits(found.device_id, message)
                if refusal is None:
                    batches.append(found)
            else:
                refusal = found
            if refusal is not None:
                rejected[REJECTED[refusal.reason]] += 1
                if refusal.reason in _SAMPLES_KEPT_FOR and self._quarantine.keep(message, refusal.reason):
                    rejected["quarantined"] += 1
                self._report(message, refusal)
        return batches, rejected

    def _report(self, message: RawMessage, rejection: Rejection) -> None:
        write, held_back = self._log_limit.allow(rejection.reason.value)
        if held_back:
            _log.warning("%d more rejected messages were not logged", held_back)
        if write:
            _log.warning(
                "rejected: %s: %s (sender %s)",
                rejection.reason.value,
                rejection.detail,
                message.sender,
                extra={"device": rejection.device_id},
            )
