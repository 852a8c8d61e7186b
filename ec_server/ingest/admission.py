"""Whether a peer may send a message for the device that it names; pure.

Two rules. A peer with a certificate may send only for the device whose id is the certificate's common name.
With a devices file, the device must be in it, and its messages must come from its networks; what counts is
the address of the SIP peer, which is that of the proxy if there is one.
"""

from __future__ import annotations

from typing import Protocol

from utilities.model import RawMessage, Rejection, RejectReason


class Directory(Protocol):
    """The interface of the devices file (configuration/devices.py)."""

    @property
    def open_to_all(self) -> bool:
        """Whether every device may send, because there is no file."""

    def admits(self, device_id: str, ip: str) -> RejectReason | None:
        """None if the device may send from the address, else why not."""


class Admission:
    """Callable with ``(device id, message)``: None to admit it, or the rejection. Thread-safe."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def __call__(self, device_id: str, message: RawMessage) -> Rejection | None:
        """Judge one message that names this device."""
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
    """The IP address in ``ip:port`` or ``[ip]:port``."""
    return sender.rpartition(":")[0].strip("[]")


_DETAIL = {
    RejectReason.UNKNOWN_DEVICE: "not in devices.file",
    RejectReason.WRONG_NETWORK: "{} is in none of its networks",
}
