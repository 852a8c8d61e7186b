"""Joins the receivers' live figures of devices with the database's records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utilities.model import DeviceRecord

LIVE_SUFFIX = ".devices.json"
FRESH_S = 10.0
"""A file older than this is from a dead receiver; its rates are ignored."""


@dataclass(frozen=True, slots=True)
class LiveDevice:
    """One device over all receivers: when it last sent (epoch seconds), and its present rate."""

    last_seen: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device as the status server shows it: its record and its live figures."""

    record: DeviceRecord
    samples_per_second: float
    """The present rate; 0 if it is silent."""

    @property
    def last_seen_s(self) -> int:
        """Epoch second of the last message."""
        return self.record.last_seen_us // 1_000_000


def read_live(run_folder: Path, now: float) -> dict[str, LiveDevice]:
    """Every device in the receivers' files; a file that cannot be read is ignored.

    For a device whose messages reach several receivers, the rates are added.
    """
    merged: dict[str, LiveDevice] = {}
    for path in sorted(run_folder.glob(f"*{LIVE_SUFFIX}")):
        for device_id, live in _read(path, now):
            before = merged.get(device_id, LiveDevice(0.0, 0.0))
            merged[device_id] = LiveDevice(
                max(before.last_seen, live.last_seen),
                before.samples_per_second + live.samples_per_second,
            )
    return merged


def join(records: Iterable[DeviceRecord], live: Mapping[str, LiveDevice]) -> list[DeviceStatus]:
    """Every device that the database or a receiver knows, ascending by id."""
    statuses = {record.device_id: _joined(record, live.get(record.device_id)) for record in records}
    for device_id, heard in live.items():
        if device_id not in statuses:
            heard_us = int(heard.last_seen * 1_000_000)
            statuses[device_id] = _joined(DeviceRecord(device_id, heard_us, heard_us), heard)
    return [statuses[device_id] for device_id in sorted(statuses)]


def _joined(record: DeviceRecord, live: LiveDevice | None) -> DeviceStatus:
    if live is None:
        return DeviceStatus(record, 0.0)
    last_seen_us = max(record.last_seen_us, int(live.last_seen * 1_000_000))
    return DeviceStatus(replace(record, last_seen_us=last_seen_us), live.samples_per_second)


def _read(path: Path, now: float) -> list[tuple[str, LiveDevice]]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        fresh = abs(now - float(document["written"])) <= FRESH_S
        return [
            (
                str(device_id),
                LiveDevice(float(entry["last_seen"]), float(entry["samples_per_second"]) if fresh else 0.0),
            )
            for device_id, entry in document["devices"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
