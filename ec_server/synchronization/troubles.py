"""What prevents which device's rounds, for the page and health; pure.

A trouble belongs to a device and a cause. It ends when the same device gets past the same cause, or is
no longer connected; what another device succeeds in says nothing about it.
"""

from __future__ import annotations

_SHOWN = 3


class Troubles:
    """The troubles that stand."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], str] = {}

    def set(self, device_id: str, cause: str, text: str) -> None:
        """Something went wrong; ``device_id`` is empty if it concerns none alone."""
        self._texts[device_id, cause] = text

    def clear(self, device_id: str, cause: str) -> None:
        """It went well this time."""
        self._texts.pop((device_id, cause), None)

    def forget(self, device_id: str) -> None:
        """The device is not connected any more."""
        for key in [key for key in self._texts if key[0] == device_id]:
            del self._texts[key]

    def text(self) -> str:
        """All of it in one line, the oldest first; "" if nothing is wrong."""
        lines = [f"{device}: {text}" if device else text for (device, _), text in self._texts.items()]
        more = len(lines) - _SHOWN
        return "; ".join(lines[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
