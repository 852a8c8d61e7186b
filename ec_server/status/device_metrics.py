"""The metrics of single devices, at most ``status.max_device_metrics`` of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ec_server.status.live_devices import DeviceStatus
from ec_server.status.verdict import Standing, standing

# Metric, kind, help, and the value; None if the device has none yet.
_FAMILIES: tuple[tuple[str, str, str, Callable[[DeviceStatus], float | None]], ...] = (
    (
        "ec_device_samples_per_second",
        "gauge",
        "Samples that arrive now.",
        lambda device: device.samples_per_second,
    ),
    (
        "ec_device_last_seen_timestamp_seconds",
        "gauge",
        "When the last message came.",
        lambda device: device.record.last_seen_us / 1e6,
    ),
    (
        "ec_device_verified_through_timestamp_seconds",
        "gauge",
        "Every minute before it is settled; absent before the first round.",
        lambda device: device.record.verified_through,
    ),
    (
        "ec_device_unresolved_minutes",
        "gauge",
        "Minutes compared and still different.",
        lambda device: device.record.unresolved_minutes,
    ),
    (
        "ec_device_conflicts",
        "counter",
        "Stored values that the device's replaced.",
        lambda device: device.record.conflicts,
    ),
)
_URGENCY = {Standing.DIFFERING: 0, Standing.BEHIND: 1, Standing.WAITING: 3, Standing.PROVEN: 4}


def device_families(
    devices: Sequence[DeviceStatus], now: float, allowed_s: float, most: int
) -> Iterator[Metric]:
    """The families of the ``most`` devices that need attention first, then by id."""
    shown = by_urgency(devices, now, allowed_s)[:most]
    for name, kind, text, value_of in _FAMILIES:
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(name, text, labels=["device"])
        for device in shown:
            value = value_of(device)
            if value is not None:
                family.add_metric([device.record.device_id], value)
        yield family


def by_urgency(devices: Sequence[DeviceStatus], now: float, allowed_s: float) -> list[DeviceStatus]:
    """Devices that need attention first; otherwise in the given order."""
    return sorted(devices, key=lambda device: urgency(standing(device, now, allowed_s)))


def urgency(how: Standing) -> int:
    """A sort key: the smaller, the more a device with this standing needs attention."""
    return _URGENCY.get(how, 2)
