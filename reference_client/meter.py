"""One meter: takes a second of samples, records it, then composes the messages that carry it.

The order matters. What is sent was recorded before, so whatever gets lost on the way can be made
good; what could not be recorded is sent all the same, since it is then the only copy.
"""

from __future__ import annotations

import logging

from reference_client.faults import Faults, Message
from reference_client.local_store import LocalStore
from reference_client.message import MICROSECONDS, SAMPLES_PER_MILLISECOND, bodies, text_batches
from reference_client.waveform import SampleSource

_log = logging.getLogger(__name__)


class Meter:
    """One device's source, local store and faults. Used by one thread, the recording one."""

    def __init__(
        self, device_id: str, source: SampleSource, store: LocalStore, faults: Faults, *, binary: bool
    ) -> None:
        self.device_id, self.store, self.faults = device_id, store, faults
        self._source, self._binary = source, binary
        self.seconds_recorded = 0
        self.seconds_refused = 0
        """Seconds that the disk did not take."""

    def record(self, second: int, elapsed_s: float) -> list[Message]:
        """Record one whole UTC second, and return its messages, each due at its first sample's moment.

        ``elapsed_s`` is the second's distance from the meter's beginning, for the faults.
        """
        values = self._source.second(second)
        batches = text_batches(values)
        if self.faults.forgets(elapsed_s):
            self.store.forget()
        self._keep(second, ";".join(batches))
        first_us = second * 1_000_000
        messages = [
            Message(first_us + microsecond, body)
            for microsecond, body in zip(
                MICROSECONDS[::SAMPLES_PER_MILLISECOND].tolist(),
                bodies(self.device_id, second, values, binary=self._binary, texts=batches),
            )
        ]
        return self.faults.apply(elapsed_s, second, messages, self._binary)

    def _keep(self, second: int, text: str) -> None:
        try:
            self.store.record(second, text)
            self.seconds_recorded += 1
        except OSError as error:
            self.seconds_refused += 1
            _log.error("cannot record second %d: %s", second, error, extra={"device": self.device_id})
