"""Which connection has to go where they run short; pure.

Rules:

1. A connection is *proven* once it has carried a valid message: a MESSAGE that the gate took, in the
   name of a device that may send from there, with samples that can be stored.
2. Where one too many is open, the one to go is: of the unproven ones, the oldest of the address that has
   most of them; where all are proven, the one that has been silent for longest.
3. The unproven connections of one address are never more than its share, so that one address cannot
   push out what others have just opened. A proven connection does not count there: behind a proxy or a
   translated address many devices have the same one.
4. A connection that has just come is never the one to go, unless it is the only one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class ConnectionBudget(Generic[Key]):
    """A process's open connections: ``most`` at most, of one address ``share`` unproven ones at most."""

    def __init__(self, most: int, share: int) -> None:
        self.most, self._share = most, share
        self._unproven: dict[str, dict[Key, None]] = {}
        self._address_of: dict[Key, str] = {}
        self._heard_s: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._address_of)

    def opened(self, key: Key, address: str) -> Iterator[Key]:
        """One more connection; those that have to go for it, each of which is then forgotten."""
        self._address_of[key] = address
        own = self._unproven.setdefault(address, {})
        own[key] = None
        if len(own) > self._share:
            yield self._forget(next(iter(own)))
        if len(self._address_of) > self.most:
            yield self._forget(self._first_to_go(key))

    def heard(self, key: Key, now_s: float) -> None:
        """A connection has carried a valid message."""
        address = self._address_of.get(key)
        if address is not None:
            if key not in self._heard_s:
                self._leave(key, address)
            self._heard_s[key] = now_s

    def closed(self, key: Key) -> None:
        """A connection has ended; one that is not known changes nothing."""
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
