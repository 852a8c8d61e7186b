"""The commands that a generator of the synchronization may yield to its driver.

    Ask(request)    send a request; the result is its id. At most WINDOW may be unanswered
    Collect(id)     wait for the answer to it; the result is the answer
    Use(call)       call it with the database; the result is its return value. A StorageError is thrown
                    into the generator, which may handle it
    Pause()         give other devices their turn; no payload is in use any more
    Note(figures)   increase figures, write a line to the log

If the connection ends or the database fails, the driver closes the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ec_server.storage.contract import Store
from ec_server.synchronization.frames import Request

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the request, with an id that the driver chooses."""

    request: Request


@dataclass(frozen=True, slots=True)
class Collect:
    """Wait for the answer to the request with this id."""

    id: int


@dataclass(frozen=True, slots=True)
class Use:
    """Call a function with a Store."""

    call: Callable[[Store], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Give others their turn."""


@dataclass(frozen=True, slots=True)
class Note:
    """Increase these figures; if there is a ``message``, log it as ``kind`` (rate limited)."""

    figures: dict[str, int] = field(default_factory=dict)
    kind: str = ""
    message: str = ""


Command = Ask | Collect | Use | Pause | Note
Steps = Generator[Command, Any, _Result]


def use(call: Callable[[Store], _Result]) -> Steps[_Result]:
    """The command Use for ``yield from``, so that its result has a type."""
    return cast(_Result, (yield Use(call)))
