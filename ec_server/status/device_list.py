"""Which devices a page lists: search, sorting, paging; pure.

By default, devices that need attention come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec_server.status.device_metrics import urgency
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.verdict import standing

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A device with the texts that the page shows."""

    status: DeviceStatus
    name: str
    state: str

    @property
    def device_id(self) -> str:
        """The device's id."""
        return self.status.record.device_id


@dataclass(frozen=True, slots=True)
class Query:
    """What the user asked for; anything unknown means the default."""

    search: str = ""
    order: str = "urgency"
    page: int = 1

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Query:
        """From the query string; never fails, so that a page shows something for any query."""
        order = parameters.get("sort", "urgency")
        page = parameters.get("page", "1")
        return cls(
            parameters.get("q", "").strip()[:100],
            order if order in ORDERS else "urgency",
            int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 6 else 1,
        )


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One page of the list."""

    rows: tuple[ListedDevice, ...]
    found: int
    page: int
    pages: int


def _through(device: ListedDevice) -> int:
    return device.status.record.verified_through or 0


ORDERS: Mapping[str, Callable[[ListedDevice], Any]] = {
    "urgency": lambda device: 0,  # they are in this order already
    "id": lambda device: device.device_id,
    "name": lambda device: (device.name.casefold() or "\uffff", device.device_id),
    "rate": lambda device: -device.status.samples_per_second,
    "heard": lambda device: -device.status.record.last_seen_us,
    "through": _through,
    "unresolved": lambda device: -device.status.record.unresolved_minutes,
}
"""The possible sort keys."""


def device_page(
    devices: Sequence[DeviceStatus], names: Mapping[str, str], query: Query, now: float, allowed_s: float
) -> DevicePage:
    """The page of the list that ``query`` asks for; the last one if it is beyond the end."""
    wanted = query.search.casefold()
    graded = [(standing(device, now, allowed_s), device) for device in devices]
    if query.order == "urgency":
        graded.sort(key=lambda pair: urgency(pair[0]))
    listed = [
        ListedDevice(device, names.get(device.record.device_id, ""), how.value)
        for how, device in graded
        if not wanted or _matches(device.record.device_id, names, how.value, wanted)
    ]
    listed.sort(key=ORDERS[query.order])
    pages = max(1, -(-len(listed) // PAGE_SIZE))
    page = min(query.page, pages)
    first = (page - 1) * PAGE_SIZE
    return DevicePage(tuple(listed[first : first + PAGE_SIZE]), len(listed), page, pages)


def _matches(device_id: str, names: Mapping[str, str], state: str, wanted: str) -> bool:
    return wanted in device_id.casefold() or wanted in names.get(device_id, "").casefold() or wanted == state
