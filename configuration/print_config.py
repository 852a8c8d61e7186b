"""``--print-config``: every option's value, and where it was set, as a valid configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from configuration.check import FAULTY, VALID, printable
from configuration.properties_reader import read_with_places, value_text
from configuration.settings import OPTIONS, SECTIONS
from utilities.errors import ConfigurationError


def print_config(path: Path | None, environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code (0, or 2 if there are faults) and the text, without a last newline.

    One line per option: ``key=value # where from``; secrets are masked.
    """
    try:
        settings, places = read_with_places(path, environ)
    except ConfigurationError as error:
        return FAULTY, printable(str(error))
    lines = []
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for option in OPTIONS:
            if option.section == section:
                text = value_text(option, getattr(settings, option.attribute))
                lines.append(f"{option.key}={text} # {places.get(option.key, 'default')}")
    return VALID, printable("\n".join(lines[1:]))
