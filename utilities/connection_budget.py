"""Which connection is closed when there are too many; pure.

Rules:

1. A connection is *proven* once it has carried a valid message: a MESSAGE that the gate accepted, from a
   device that may send from that address, with samples that can be stored.
2. If there is one too many, the connection to close is the oldest unproven one of the address that has
   most of them; if all are proven, the one that has been silent for longest.
3. An address never has more unproven connections than its share, so that one address cannot push out the
   new connections of others. Proven connections do not count, as many devices behind a proxy or NAT share
   one address.
4. A new connection is never the one to close, unless it is the only one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class ConnectionBudget(Generic[Key]):
    """The open connections of a process: at most ``most``, at most ``share`` unproven ones per address."""

    def __init__(self, most: int, share: int) -> None:
        self.most, self._share = most, share
        self._unproven: dict[str, dict[Key, None]] = {}
        self._address_of: dict[Key, str] = {}
        self._heard_s: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._address_of)

    def opened(self, key: Key, address: str) -> Iterator[Key]:
        """Add a connection; yields those that must be closed for it, and forgets them."""
        self._address_of[key] = address
        own = self._unproven.setdefault(address, {})
        own[key] = None
        if len(own) > self._share:
            yield self._forget(next(iter(own)))
        if len(self._address_of) > self.most:
            yield self._forget(self._first_to_go(key))

    def heard(self, key: Key, now_s: float) -> None:
        """Note that a connection has carried a valid message."""
        address = self._address_of.get(key)
        if address is not None:
            if key not in self._heard_s:
                self._leave(key, address)
            self._heard_s[key] = now_s

    def closed(self, key: Key) -> None:
        """Forget a connection that has ended; unknown ones are ignored."""
        if key in self._address_of:
            self._forget(key)

    def is_proven(self, key: Key) -> bool:
        """Whether it has carried a valid message."""
        return key in self._heard_s

    def _first_to_go(self, newest: Key) -> Key:
        for own in sorted(self._unproven.values(), key=len, reverse=True):
            for key in own:
                if key != newest:
                    return key
        if self._heard_s:
            return min(self._heard_s, key=self._heard_s.__getitem__)
        return next(iter(self._address_of))

    def _forget(self, key: Key) -> Key:
        address = self._address_of.pop(key)
        if self._heard_s.pop(key, None) is None:
            self._leave(key, address)
        return key

    def _leave(self, key: Key, address: str) -> None:
        own = self._unproven[address]
        del own[key]
        if not own:
            del self._unproven[address]
