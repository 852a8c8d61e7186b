"""What a command line asks of the meters: a plan for each of their processes. Needs no SIP library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reference_client.faults import FaultPlan
from reference_client.message import SAMPLES_PER_SECOND
from reference_client.recording import Recording
from utilities.sip_client_options import ClientOptions

WINDOWS = {"udp": 64, "tcp": 512, "tls": 512}
"""Unanswered messages at most. Over UDP few, since a server's receive buffer holds about 150."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recordings to replay, a meter the first, the next the second, and round again."""

    files: tuple[Path, ...]
    loop: bool
    rate: int = SAMPLES_PER_SECOND
    """Samples per second of files that do not say so themselves."""
    scale: float = 1.0
    """Watts for each 1 of the files."""

    def open(self, number: int, start: int) -> Recording:
        """The recording of the meter with this number."""
        file = self.files[number % len(self.files)]
        return Recording(file, start, loop=self.loop, rate=self.rate, scale=self.scale)


@dataclass(frozen=True, slots=True)
class SyncTarget:
    """Where the meters of a process are synchronized, and how they prove who they are."""

    host: str
    port: int
    key: bytes = field(default=b"", repr=False)
    tls_authority: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    over_tls: bool = False


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """Everything one process of meters has to know."""

    name: str
    devices: tuple[tuple[int, str], ...]
    """``(number of the meter, device id)``."""
    sip: ClientOptions
    sync: SyncTarget | None
    store: Path
    keep_hours: int
    binary: bool
    subscribe: bool
    recorded: Recorded | None
    faults: FaultPlan
    start: int | None
    """Epoch second of the first sample; None: when everybody is ready."""
    seconds: int | None
    """How many to record; None: until stopped, or until the recordings end."""
    speed: float
    window: int
    stay: bool
    """Go on answering the synchronization when everything was sent."""
