"""What a command line asks of the meters: a plan for each of their processes. Needs no SIP library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reference_client.faults import FaultPlan
from reference_client.message import SAMPLES_PER_SECOND
from reference_client.recording import Recording
from utilities.sip_client_options import ClientOptions

WINDOWS = {"udp": 64, "tcp": 512, "tls": 512}
"""The most unanswered messages. Few over UDP, as a server's receive buffer holds about 150."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recordings to replay, assigned to the meters in turn."""

    files: tuple[Path, ...]
    loop: bool
    rate: int = SAMPLES_PER_SECOND
    """Samples per second, for files that do not contain their rate."""
    scale: float = 1.0
    """Watts per unit of the files' values."""

    def open(self, number: int, start: int) -> Recording:
        """Open the recording of the meter with this number."""
        file = self.files[number % len(self.files)]
        return Recording(file, start, loop=self.loop, rate=self.rate, scale=self.scale)


@dataclass(frozen=True, slots=True)
class SyncTarget:
    """Where the meters of a process connect for synchronization, and how they authenticate."""

    host: str
    port: int
    key: bytes = field(default=b"", repr=False)
    tls_authority: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    over_tls: bool = False


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """Everything that a process of meters needs to know."""

    name: str
    devices: tuple[tuple[int, str], ...]
    """``(number, device id)`` of each meter."""
    sip: ClientOptions
    sync: SyncTarget | None
    store: Path
    keep_hours: int
    binary: bool
    subscribe: bool
    recorded: Recorded | None
    faults: FaultPlan
    start: int | None
    """Epoch second of the first sample; None for the time when all processes are ready."""
    seconds: int | None
    """How many seconds to record; None: until stopped, or until the recordings end."""
    speed: float
    window: int
    stay: bool
    """Whether to continue answering the synchronization after everything was sent."""
