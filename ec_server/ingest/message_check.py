"""Turns messages into batches; rejected ones are counted by reason and logged."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from ec_server.account.figures import REJECTED
from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_group import Admits, GroupParser
from ec_server.ingest.quarantine import Quarantine
from utilities.log import RateLimit
from utilities.model import Batch, RawMessage, Rejection, RejectReason

_SAMPLES_KEPT_FOR = frozenset((RejectReason.TIME_TOO_FAR_AHEAD, RejectReason.TIME_TOO_FAR_BACK))

_log = logging.getLogger(__name__)


class MessageCheck:
    """Not thread-safe."""

    def __init__(self, limits: Limits, admits: Admits, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._parser = GroupParser(limits, admits)
        self._log_limit = RateLimit()

    def check(self, messages: Sequence[RawMessage]) -> tuple[list[Batch], Counter[str]]:
        """The batches in the order of the messages, and the figures of rejected messages."""
        batches: list[Batch] = []
        rejected: Counter[str] = Counter()
        for message, found in zip(messages, self._parser.parse(messages, int(time.time()))):
            if isinstance(found, Batch):
                batches.append(found)
                continue
            rejected[REJECTED[found.reason]] += 1
            if found.reason in _SAMPLES_KEPT_FOR and self._quarantine.keep(message, found.reason):
                rejected["quarantined"] += 1
            self._report(message, found)
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
