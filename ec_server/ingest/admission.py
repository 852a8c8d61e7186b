"""Whether a message may be sent in the name of its device; pure.

Two rules. A peer that showed a certificate speaks only for the device whose id is the certificate's
common name. With a devices file, a device must be in it, and its messages come from its networks:
those of the SIP peer, which is the proxy where there is one in front.
"""

from __future__ import annotations

from typing import Protocol

from utilities.model import RawMessage, Rejection, RejectReason


class Directory(Protocol):
    """What is asked of the devices file (configuration/devices.py)."""

    @property
    def open_to_all(self) -> bool:
        """No file: every device may send."""

    def admits(self, device_id: str, ip: str) -> RejectReason | None:
        """None if the device may send from the address, else why not."""


class Admission:
    """Callable on ``(device id, message)``: None to let it in, or the rejection. Threads may share it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def __call__(self, device_id: str, message: RawMessage) -> Rejection | None:
        """Judge one message whose body parsed."""
        if message.peer_name and message.peer_name != device_id:
            return Rejection(
                RejectReason.WRONG_CERTIFICATE, f"the certificate is of {message.peer_name!r}", device_id
            )
        if self._directory.open_to_all:
            return None
        address = address_of(message.sender)
        reason = self._directory.admits(device_id, address)
        return None if reason is None else Rejection(reason, _DETAIL[reason].format(address), device_id)


def address_of(sender: str) -> str:
    """The address of ``ip:port`` or ``[ip]:port``."""
    return sender.rpartition(":")[0].strip("[]")


_DETAIL = {
    RejectReason.UNKNOWN_DEVICE: "not in devices.file",
    RejectReason.WRONG_NETWORK: "{} is in none of its networks",
}
