"""For tests of the configuration: writes a file, and reads what is reported as wrong in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from configuration.properties_reader import read_settings
from utilities.errors import ConfigurationError


def write_configuration(folder: Path, content: str | bytes) -> Path:
    """Write a configuration file; its path."""
    path = folder / "server.properties"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def faults(path: Path | None, environ: Mapping[str, str] | None = None) -> list[str]:
    """The fault lines of a configuration that must not be taken."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(path, environ or {})
    title, *lines = str(caught.value).split("\n  ")
    assert title == f"{len(lines)} error{'s' if len(lines) > 1 else ''} in the configuration:"
    return lines


def only_fault(path: Path | None, environ: Mapping[str, str] | None = None) -> str:
    (line,) = faults(path, environ)
    return line
