"""The death of a process at any step that leaves a trace, within a test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class DiedError(BaseException):
    """The process is gone at this point."""


class Reaper:
    """Ends everything at its ``at``-th call, never if that is None; what is called after a death dies too."""

    def __init__(self, at: int | None) -> None:
        self._left = at if at is not None else 10**9
        self.has_come = False

    def watch(self, owner: object, *names: str) -> None:
        """Be called before and after these methods of ``owner``."""
        for name in names:
            setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> Any:
            self._call()
            result = method(*arguments, **more)
            self._call()
            return result

        return watched

    def _call(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.has_come = True
            raise DiedError
