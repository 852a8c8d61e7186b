"""One meter: takes a second of samples, records it, then builds its messages.

The order matters. A second is recorded before it is sent, so whatever is lost on the way can be recovered. A
second that could not be recorded is sent nevertheless, as it is then the only copy.
"""

from __future__ import annotations

import logging

from reference_client.faults import Faults, Message
from reference_client.local_store import LocalStore
from reference_client.message import MICROSECONDS, SAMPLES_PER_MILLISECOND, bodies, text_batches
from reference_client.waveform import SampleSource

_log = logging.getLogger(__name__)


class Meter:
    """The source, local store and faults of one device. Used only by the recording thread."""

    def __init__(
        self, device_id: str, source: SampleSource, store: LocalStore, faults: Faults, *, binary: bool
    ) -> None:
        self.device_id, self.store, self.faults = device_id, store, faults
        self._source, self._binary = source, binary
        self.seconds_recorded = 0
        self.seconds_refused = 0
        """Number of seconds that could not be recorded."""

    def record(self, second: int, elapsed_s: float) -> list[Message]:
        """Record a complete UTC second; returns its messages, each due at the time of its first sample.

        ``elapsed_s`` is the time since the meter began, for the faults.
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
