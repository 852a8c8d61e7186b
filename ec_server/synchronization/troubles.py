"""What prevents the rounds of which devices, for the status page and health; pure.

A trouble belongs to a device and a cause. It ends when the same device succeeds where it failed, or is no
longer connected; the success of another device does not end it.
"""

from __future__ import annotations

_SHOWN = 3


class Troubles:
    """The present troubles."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], str] = {}

    def set(self, device_id: str, cause: str, text: str) -> None:
        """Note a failure; ``device_id`` is empty if it does not concern a single device."""
        self._texts[device_id, cause] = text

    def clear(self, device_id: str, cause: str) -> None:
        """Note a success."""
        self._texts.pop((device_id, cause), None)

    def forget(self, device_id: str) -> None:
        """Remove the troubles of a device that is no longer connected."""
        for key in [key for key in self._texts if key[0] == device_id]:
            del self._texts[key]

    def text(self) -> str:
        """All troubles in one line, oldest first; "" if there are none."""
        lines = [f"{device}: {text}" if device else text for (device, _), text in self._texts.items()]
        more = len(lines) - _SHOWN
        return "; ".join(lines[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
