"""Keeps a receiver registered with a registrar, so that devices can call an address of record."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import pjsua2 as pj

_POLL_MS = 50
_UNREGISTER_S = 1.0
_REGISTER_AGAIN_S = (2.0, 60.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """Where to register, so that devices can call an address of record."""

    registrar: str
    """``HOST[:PORT][;transport=udp|tcp|tls]``."""
    user: str
    password: str = field(repr=False)


class Registrar:
    """Keeps one account registered: tries again after a failure, waiting longer each time."""

    def __init__(self, name: str) -> None:
        """``name`` is for the log; ``account`` is to be set before the first ``tick``."""
        self.account: Any = None
        self._name = name
        self._again_at: float | None = 0.0
        self._wait_s = _REGISTER_AGAIN_S[0]
        self._joined = False

    def tick(self, now: float) -> None:
        """Register when it is time to; ``now`` is of time.monotonic."""
        if self._again_at is None or now < self._again_at:
            return
        self._again_at = None
        try:
            self.account.setRegistration(True)
        except pj.Error as error:
            self.answered(0, error.reason, 0)

    def answered(self, code: int, reason: str, expires_s: int) -> None:
        """The registrar's answer, or what stood in its way; called within a poll."""
        if code == 200 and expires_s > 0:
            if not self._joined:
                _log.info("registered with %s for %d s, renewed before that", self._name, expires_s)
            self._joined, self._wait_s = True, _REGISTER_AGAIN_S[0]
        elif code == 200:
            self._joined = False
        else:
            _log.warning(
                "registrar %s: %s %s; trying again in %.0f s", self._name, code or "", reason, self._wait_s
            )
            self._joined = False
            self._again_at = time.monotonic() + self._wait_s
            self._wait_s = min(2 * self._wait_s, _REGISTER_AGAIN_S[1])

    def leave(self, endpoint: Any) -> None:
        """Unregister, waiting a moment for the answer."""
        if not self._joined:
            return
        try:
            self.account.setRegistration(False)
            deadline = time.monotonic() + _UNREGISTER_S
            while self._joined and time.monotonic() < deadline:
                endpoint.libHandleEvents(_POLL_MS)
        except pj.Error as error:
            _log.warning("registrar %s: cannot unregister: %s", self._name, error.reason)
        self._again_at = None


def transport_of(registrar: str) -> str:
    """``udp``, ``tcp`` or ``tls``, as a registrar's address says."""
    return registrar.partition(";transport=")[2] or ("tls" if registrar.startswith("sips:") else "udp")
