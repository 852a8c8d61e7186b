"""The rounds and audits of one device, one after the other, for as long as it is connected.

Rules:

1. A round begins at once, then one every interval; audits run on request, between rounds.
2. If the database fails, the connection stays, health is degraded, and the round is tried again a little
   later. Only a successful round of the same device ends this trouble. An unreadable minute or day is not
   such a failure: the round continues, and the storage's health names the file.
3. What the rounds of this connection have learned about the device (coverage.py) is passed from one to the
   next, and discarded with the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ec_server.account.histograms import ROUND_DURATION
from ec_server.account.round_journal import note_round
from ec_server.synchronization.audit import AuditDesk, AuditRequest
from ec_server.synchronization.coverage import Heard, RoundRules, closed_before
from ec_server.synchronization.device_link import DeviceLink
from ec_server.synchronization.round import compare, whole_round
from ec_server.synchronization.round_state import RoundResult, RoundTask
from ec_server.synchronization.troubles import Troubles
from utilities.errors import StorageError

RETRY_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundSurroundings:
    """What the rounds of all devices share."""

    rules: RoundRules
    interval_s: float
    audits: AuditDesk
    troubles: Troubles
    wall: Callable[[], float]
    """UTC epoch seconds."""
    monotonic: Callable[[], float]
    count: Callable[[Mapping[str, int]], None]
    note: Callable[[str, str, str], None]
    """Writes a line to the log, at a limited rate, from its kind, message and device."""
    run_folder: Path
    """The path of the journal of rounds."""


class DeviceRounds:
    """See the module's rules; ``run`` ends when it is cancelled."""

    def __init__(self, link: DeviceLink, around: RoundSurroundings) -> None:
        self._link, self._around = link, around
        self._due = self._last_begun = around.monotonic()
        self._heard = Heard()

    async def run(self) -> None:
        """Run the device's rounds until the connection ends."""
        around, device_id = self._around, self._link.device_id
        bell = around.audits.bell(device_id)
        while True:
            bell.clear()
            try:
                await self._work()
                around.troubles.clear(device_id, "storage")
            except StorageError as error:
                around.troubles.set(device_id, "storage", str(error))
                around.note("storage", f"the round is tried again: {error}", device_id)
                self._due = around.monotonic() + min(RETRY_S, around.interval_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._due - around.monotonic())):
                    await bell.wait()

    async def _work(self) -> None:
        if self._around.monotonic() >= self._due:
            self._due = self._around.monotonic() + self._around.interval_s
            await self._round()
        for request in self._around.audits.pending(self._link.device_id):
            await self._audit(request)

    async def _round(self) -> None:
        link, around = self._link, self._around
        begun = around.monotonic()
        since_last_s = begun - self._last_begun
        steps = whole_round(link.device_id, link.oldest, around.rules, self._heard, around.wall, since_last_s)
        result = await link.perform(steps)
        self._heard, self._last_begun = result.heard, begun
        took_s = around.monotonic() - begun
        around.count({"rounds": 1, **ROUND_DURATION.noted(took_s)})
        note_round(around.run_folder, _journal_line(link.device_id, result, around.wall(), took_s))
        link.end_round(result.verified)
        _log_round(link.device_id, result)

    async def _audit(self, request: AuditRequest) -> None:
        around = self._around
        stop = max(min(request.stop, closed_before(around.wall(), around.rules)), request.start)
        task = RoundTask(
            request.device_id, request.start, stop, most_samples=around.rules.most_samples, audit=True
        )
        result = await self._link.perform(compare(task, lambda: int(around.wall() * 1e6)))
        around.audits.done(request, result.reports)


def _journal_line(device_id: str, result: RoundResult, ended: float, took_s: float) -> dict[str, object]:
    verified = result.verified
    return {
        "device": device_id,
        "ended": round(ended, 3),
        "took_s": round(took_s, 3),
        "through": verified.through,
        "compared": verified.compared,
        "repaired": verified.repaired,
        "unresolved": verified.unresolved,
        "extra": verified.extra,
    }


def _log_round(device_id: str, result: RoundResult) -> None:
    verified = result.verified
    if verified.repaired or verified.unresolved or verified.extra:
        _log.info(
            "round: %d minutes compared, %d seconds repaired, %d minutes unresolved, %d samples extra",
            verified.compared,
            verified.repaired,
            verified.unresolved,
            verified.extra,
            extra={"device": device_id},
        )
