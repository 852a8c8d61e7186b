"""What the notes of a recording's beginning say, and what breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass, field

from sync_meter import Samples_

from crash.workload import Begun, Ingested, Lost, Recorded, Returned, Stated, WentBack
from utilities.utc import day_of


class ViolationError(AssertionError):
    """A promise that was not kept."""


@dataclass
class Known:
    """What the notes of a recording's beginning say."""

    ingested: list[Ingested] = field(default_factory=list)
    under_way: Ingested | None = None
    stated: dict[int, dict[int, Samples_] | None] = field(default_factory=dict)
    sent: set[tuple[int, int, str]] = field(default_factory=set)
    """Second, microsecond, value."""
    meter: dict[int, Samples_] = field(default_factory=dict)
    now_s: int = 0
    returned: Returned | None = None
    returned_at: int = 0
    begun: Begun | None = None
    results: dict[int, tuple[bool, ...]] = field(default_factory=dict)
    """What each call of ``ingest`` returned in the recording, by its number; of later ones, too."""

    def take(self, at: int, what: object) -> None:
        if isinstance(what, Ingested):
            self.under_way = what if what.changed is None else None
            if what.changed is not None:
                self.ingested.append(what)
        elif isinstance(what, Stated):
            self.stated[what.minute] = what.seconds
        elif isinstance(what, WentBack):
            self.ingested = [one for one in self.ingested if one.day != what.day]
        elif isinstance(what, Lost):
            self.ingested = [one for one in self.ingested if one.day != what.day]
            self.stated = {m: s for m, s in self.stated.items() if day_of(m) != what.day}
        elif isinstance(what, Recorded):
            self.now_s = what.now_s
            self.sent |= {(s, us, v) for s, of in what.seconds.items() for us, v in of.items()}
            self.meter = what.seconds if len(what.seconds) != 1 else {**self.meter, **what.seconds}
        elif isinstance(what, Begun):
            self.begun = what
        elif isinstance(what, Returned):
            self.returned, self.returned_at = what, at
