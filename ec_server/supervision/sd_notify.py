"""Reports the launcher's state to systemd: sd_notify(3), one datagram per message.

Rules:

1. READY is sent when every worker has been ready (or degraded) once, STOPPING when the stop begins.
2. From READY on, WATCHDOG is sent at most half the requested interval apart, from the supervisor's own loop,
   to show that this loop is running. The supervisor itself kills workers that hang.
3. Nothing here ends or delays the server. If systemd does not read, READY and STOPPING are sent again in the
   next iteration, and WATCHDOG is dropped. Without systemd nothing is sent.

Workers do not get the socket (``WITHOUT``): only the launcher reports for the service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

WITHOUT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Environment variables that only the launcher gets."""


class ServiceState:
    """What was reported to systemd, and what still has to be; times are those of time.monotonic."""

    def __init__(self, send: Callable[[str], bool] | None, watchdog_s: float | None = None) -> None:
        """``send`` returns whether it succeeded; None without systemd. ``watchdog_s``: None for none."""
        self._send = send
        self._every_s = watchdog_s / 2 if watchdog_s else None
        self._next_s = 0.0
        self._told: set[str] = set()
        self._waiting: list[str] = []

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> ServiceState:
        """From the service manager's variables; a watchdog that is meant for another process is ignored."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls(None)
        return cls(lambda text: _send(address, text), _watchdog_s(environ, pid))

    def ready(self, status: str) -> None:
        """Report that every worker has been ready."""
        self._tell_once("READY=1", " ".join(status.split()))

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._tell_once("STOPPING=1", "stopping; receivers drain first")

    def alive(self, now: float) -> None:
        """Report that the loop is running; call it in each iteration."""
        self._send_waiting()
        if self._send and self._every_s and "READY=1" in self._told and now >= self._next_s:
            self._next_s = now + self._every_s
            self._send("WATCHDOG=1")

    def _tell_once(self, word: str, status: str) -> None:
        if word not in self._told:
            self._told.add(word)
            self._waiting.append(f"{word}\nSTATUS={status}")
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._send and self._waiting and self._send(self._waiting[0]):
            del self._waiting[0]


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    asked, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not asked.isascii() or not asked.isdigit() or int(asked) == 0 or (meant and meant != str(pid)):
        return None
    return int(asked) / 1_000_000


def _send(address: str, text: str) -> bool:
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as service:
            service.setblocking(False)
            service.sendto(text.encode(), os.fsencode(name))
    except OSError:
        return False
    return True
