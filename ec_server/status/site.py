"""What the status application needs to know about the server besides its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Site:
    """One server's settings as far as its pages need them."""

    version: str
    allowed_s: float
    """How old a device's proof may be before it is behind."""
    run_folder: Path
    first_meter: str = ""
    """The command that connects a meter to this server."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Device id to the name that devices.file gives it."""
    token: str = field(default="", repr=False)
    serve_samples: bool = True
    max_device_metrics: int = 1000
    queue_capacity: int = 0
    """Messages that all receivers hold together before they make senders wait."""
