"""Whether the data is complete, and through when that is proven, in words; pure.

A device is in one of four states:

* proven: everything before its ``verified_through`` is proven, and later data, if any, is too recent for a
  round to have covered it;
* waiting: it has sent for too short a time to have been compared;
* behind: the proof is older than the interval between rounds allows;
* differing: minutes were compared and still differ after the repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ec_server.status.live_devices import DeviceStatus
from utilities import utc

SILENT_DEVICE_S = 600
"""A device that has not sent for longer counts as silent."""


class Standing(Enum):
    """The state of a device's proof; the value is the word shown for it."""

    PROVEN = "proven"
    WAITING = "waiting"
    BEHIND = "behind"
    DIFFERING = "differing"


class Tone(Enum):
    """How the page shows a verdict, besides its text."""

    GOOD = "good"
    WAITING = "waiting"
    ATTENTION = "attention"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class CompletenessVerdict:
    """The verdict: a short sentence, an explanation, and a tone."""

    tone: Tone
    headline: str
    explanation: str


def allowed_lag_s(interval_s: float, grace_s: float) -> float:
    """How old a proof may be just before the next round ends: interval, open minute, some tolerance."""
    return interval_s * 1.25 + grace_s + 2 * utc.MINUTE_S


def lag_s(device: DeviceStatus, now: float) -> float:
    """How many seconds the proof of the device lags behind; 0 if everything it sent is proven."""
    record = device.record
    if record.verified_through is None:
        return max(0.0, now - record.first_seen_us / 1e6)
    if record.verified_through > device.last_seen_s:
        return 0.0
    return max(0.0, now - record.verified_through)


def standing(device: DeviceStatus, now: float, allowed_s: float) -> Standing:
    """The state of the device's proof at ``now``."""
    if device.record.unresolved_minutes:
        return Standing.DIFFERING
    if lag_s(device, now) > allowed_s:
        return Standing.BEHIND
    return Standing.PROVEN if device.record.verified_through is not None else Standing.WAITING


def judge(devices: Sequence[DeviceStatus], now: float, allowed_s: float) -> CompletenessVerdict:
    """The verdict over all devices, determined by the worst standing."""
    if not devices:
        return CompletenessVerdict(
            Tone.IDLE, "No device heard yet", "The first message of a device puts it on this page."
        )
    groups: dict[Standing, list[DeviceStatus]] = {kind: [] for kind in Standing}
    for device in devices:
        groups[standing(device, now, allowed_s)].append(device)
    for kind, sentence in _SENTENCES:
        if groups[kind]:
            return sentence(groups, len(devices), now)
    raise AssertionError("every device is in one of the four states")


Groups = dict[Standing, list[DeviceStatus]]


def _differing(groups: Groups, total: int, now: float) -> CompletenessVerdict:
    devices = groups[Standing.DIFFERING]
    minutes = sum(device.record.unresolved_minutes for device in devices)
    return CompletenessVerdict(
        Tone.ATTENTION,
        f"{count(minutes, 'minute')} could not be proven",
        f"{_names(devices)}: still different from the device’s own record after the repair; "
        f"compared again in each round. {_through(groups, total, now)}",
    )


def _behind(groups: Groups, total: int, now: float) -> CompletenessVerdict:
    devices = groups[Standing.BEHIND]
    are = "is" if len(devices) == 1 else "are"
    headline = (
        f"{len(devices)} of {total} devices {are} behind"
        if total > 1
        else f"{devices[0].record.device_id} is behind"
    )
    return CompletenessVerdict(
        Tone.ATTENTION,
        headline,
        f"{_furthest_behind(devices, now)} A device is compared while it is connected for "
        f"synchronization. {_through(groups, total, now)}",
    )


def _furthest_behind(devices: Sequence[DeviceStatus], now: float) -> str:
    worst = max(devices, key=lambda device: lag_s(device, now))
    device_id, through = worst.record.device_id, worst.record.verified_through
    others = f", the furthest of {_names(devices)}" if len(devices) > 1 else ""
    if through is None:
        return f"{device_id} has never been compared with its own record{others}."
    return f"{device_id} is proven through {moment_text(through, now)} only{others}."


def _waiting(groups: Groups, total: int, now: float) -> CompletenessVerdict:
    devices = groups[Standing.WAITING]
    if len(devices) == total:
        return CompletenessVerdict(
            Tone.WAITING,
            "Not proven yet",
            f"{count(total, 'device')}, none compared with its own record so far. "
            "The first round starts when a device connects for synchronization.",
        )
    return CompletenessVerdict(
        Tone.WAITING,
        f"{count(len(devices), 'device')} not proven yet",
        f"{_names(devices)}: not compared so far. {_through(groups, total, now)}",
    )


def _proven(groups: Groups, total: int, now: float) -> CompletenessVerdict:
    devices = groups[Standing.PROVEN]
    silent = [device for device in devices if now - device.last_seen_s > SILENT_DEVICE_S]
    sending = total - len(silent)
    whom = f"all {total} devices" if total > 1 else devices[0].record.device_id
    if silent and sending:
        whom = f"the {count(sending, 'device')} heard now"
    explanation = (
        f"Every sample of {whom} up to then is stored, proven by comparison with the device’s own record."
    )
    if silent:
        explanation += f" Silent, and complete until then: {_names(silent)}."
    headline = f"Complete through {moment_text(_common_through(devices, now), now)}"
    return CompletenessVerdict(Tone.GOOD, headline, explanation)


# The worst first.
_SENTENCES = (
    (Standing.DIFFERING, _differing),
    (Standing.BEHIND, _behind),
    (Standing.WAITING, _waiting),
    (Standing.PROVEN, _proven),
)


def _through(groups: Groups, total: int, now: float) -> str:
    """A sentence about the devices that are proven."""
    proven = groups[Standing.PROVEN]
    if not proven:
        return ""
    whom = "The other is" if total == 2 else f"{count(len(proven), 'device')} {_are(proven)}"
    return f"{whom} complete through {moment_text(_common_through(proven, now), now)}."


def _are(devices: Sequence[DeviceStatus]) -> str:
    return "is" if len(devices) == 1 else "are"


def _common_through(devices: Sequence[DeviceStatus], now: float) -> int:
    """Through when all of them are proven; devices that have sent nothing since their proof do not count."""
    throughs = [device.record.verified_through or 0 for device in devices]
    open_ended = [through for device, through in zip(devices, throughs) if lag_s(device, now) > 0]
    return min(open_ended) if open_ended else max(throughs)


def _names(devices: Sequence[DeviceStatus], most: int = 3) -> str:
    names = [device.record.device_id for device in devices]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count(number: int, noun: str) -> str:
    """``1 device``, ``2 devices``, ``1,200 minutes``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def moment_text(moment: float, now: float) -> str:
    """``14:05 UTC``, preceded by the date if it is not today."""
    text = utc.iso(int(moment) * 1_000_000)
    date = "" if utc.day_of(int(moment)) == utc.day_of(int(now)) else f"{text[:10]} "
    return f"{date}{text[11:16]} UTC"


def span_text(seconds: float) -> str:
    """A duration in its one or two largest units: ``8 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = max(0, int(seconds))
    large, small = next((pair for pair in _UNITS if whole >= pair[0][1]), _UNITS[-1])
    rest = whole % large[1] // small[1]
    return f"{whole // large[1]} {large[0]}" + (f" {rest} {small[0]}" if rest else "")


# The large unit and the one shown after it: name, seconds. Minutes are shown alone.
_UNITS = (
    (("d", 86_400), ("h", 3600)),
    (("h", 3600), ("min", 60)),
    (("min", 60), ("", 60)),
    (("s", 1), ("", 1)),
)
