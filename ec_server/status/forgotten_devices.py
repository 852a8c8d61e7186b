"""Devices that an operator has forgotten: left out of every list until they send again.

``<storage.path>/run/forgotten.json`` holds ``{device id: epoch microseconds}``, the time of ``--forget``. A
device that sends after that is listed again; its data never changes.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ec_server.status.live_devices import DeviceStatus
from utilities.private_files import give_to_owner_of_folder, make_folder, write_json

FILE_NAME = "forgotten.json"


def read_forgotten(run_folder: Path) -> dict[str, int]:
    """Device id to the time it was forgotten; empty if the file cannot be read."""
    try:
        listed = json.loads((run_folder / FILE_NAME).read_bytes())
        return {str(device_id): int(moment_us) for device_id, moment_us in listed.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def forget(run_folder: Path, device_id: str, moment_us: int) -> None:
    """Put a device on the list. Raises OSError where the file can be neither read nor written.

    Several may do so at once: none of them takes another's device off the list.
    """
    make_folder(run_folder)
    with (run_folder / f"{FILE_NAME}.lock").open("wb") as lock:
        give_to_owner_of_folder(run_folder / f"{FILE_NAME}.lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = run_folder / FILE_NAME
        if path.exists():
            path.read_bytes()  # a list that cannot be read must not be replaced by a shorter one
        write_json(path, read_forgotten(run_folder) | {device_id: moment_us})


def without_forgotten(devices: Iterable[DeviceStatus], forgotten: Mapping[str, int]) -> list[DeviceStatus]:
    """The devices that are not forgotten, or have sent since."""
    return [d for d in devices if d.record.last_seen_us > forgotten.get(d.record.device_id, -1)]
