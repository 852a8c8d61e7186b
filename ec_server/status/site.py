"""Settings of the server that the status pages need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Site:
    """The settings of one server, as far as its pages need them."""

    version: str
    allowed_s: float
    """How old a device's proof may be before the device counts as behind."""
    run_folder: Path
    first_meter: str = ""
    """The command that connects a meter to this server."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Device id to its name in devices.file."""
    token: str = field(default="", repr=False)
    serve_samples: bool = True
    max_device_metrics: int = 1000
    queue_capacity: int = 0
    """How many messages all receivers together hold before senders have to wait."""
