"""The overview page, in parts: at first complete, later only the parts that have changed.

Rules:

1. Every part and every row of the list has an id and a hash of its HTML. The page sends the hashes that it
   has, and gets the HTML of parts that differ, so that 2,000 idle devices cost a few hundred bytes.
2. A part changes only if its content changes: the browser computes ages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from ec_server.status.advice import advice
from ec_server.status.device_list import Query, device_page
from ec_server.status.health import Health, worker_fault
from ec_server.status.history import History
from ec_server.status.snapshot import Account, Snapshot
from ec_server.status.templates import TEMPLATES, render
from ec_server.status.verdict import Tone, count, judge, span_text
from utilities import utc

_COLUMNS = (
    ("id", "Device", ""),
    ("urgency", "State", ""),
    ("rate", "Samples/s", "figure"),
    ("heard", "Last heard", ""),
    ("through", "Proven through", ""),
    ("unresolved", "Minutes unresolved", "figure"),
)
_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page that is replaced as a whole."""

    id: str
    html: Markup

    @property
    def hash(self) -> str:
        """Identifies this HTML in this place."""
        return hashlib.blake2s(f"{self.id} {self.html}".encode(), digest_size=_HASH_LENGTH // 2).hexdigest()


class Overview:
    """The page for one snapshot and one query."""

    def __init__(
        self,
        now: Snapshot,
        health: Health,
        history: History,
        *,
        allowed_s: float,
        names: Mapping[str, str],
        query: Query,
        first_meter: str,
    ) -> None:
        """``first_meter`` is a command that connects a meter, shown while there is none."""
        self._now, self._health, self._history = now, health, history
        self._allowed_s, self._query, self._first_meter = allowed_s, query, first_meter
        self._listing = device_page(now.devices, names, query, now.now, allowed_s)
        self._macros: Any = TEMPLATES.get_template("parts.html").module

    def whole(self) -> str:
        """The complete page, for the first request of a browser, or for each one without JavaScript."""
        return render(
            "overview.html",
            title=self._title,
            clock=self._clock,
            parts={part.id: part.html for part in self.parts},
            rows=self.rows,
            columns=_COLUMNS,
            query=self._query,
            query_string=urlencode(self._asked),
            any_device=bool(self._now.devices),
            link=self._link,
        )

    def changes(self, have: frozenset[str]) -> dict[str, object]:
        """What the page needs to become up to date, given the hashes that it has."""
        pieces = [*self.parts, *self.rows]
        return {
            "title": self._title,
            "clock": self._clock,
            "now": round(self._now.now, 1),
            "any_device": bool(self._now.devices),
            "parts": [[part.id, part.hash] for part in self.parts],
            "rows": [[row.id, row.hash] for row in self.rows],
            "html": {piece.hash: piece.html for piece in pieces if piece.hash not in have},
        }

    # --- parts ----------------------------------------------------------------------------

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every part except the rows."""
        headline, tone, explanation = self._verdict
        macros = self._macros
        return (
            Part("verdict", macros.verdict(headline, tone)),
            Part("explanation", Markup("{}").format(explanation)),
            Part("health", macros.health(self._faults())),
            Part("readouts", macros.readouts(self._readouts())),
            Part("first-meter", self._first()),
            Part("pages", macros.pages(self._listing, self._link, self._query.search)),
            Part("account", macros.account(_account_items(self._account), _account_note(self._account))),
            Part("workers", macros.workers(self._workers())),
        )

    @cached_property
    def rows(self) -> tuple[Part, ...]:
        """One part per device listed."""
        known = not self._now.database.error
        return tuple(
            Part(f"row-{device.device_id}", self._macros.row(device, known, self._now.now))
            for device in self._listing.rows
        )

    @cached_property
    def _verdict(self) -> tuple[str, str, str]:
        if self._now.database.error:
            return (
                "The database does not answer",
                "attention",
                "What is proven cannot be said until it does.",
            )
        verdict = judge(self._now.devices, self._now.now, self._allowed_s)
        # A server that is not healthy is never shown in the colour for "all is well".
        tone = verdict.tone if self._health.good else Tone.ATTENTION
        return verdict.headline, tone.value, verdict.explanation

    @cached_property
    def _account(self) -> Account:
        return self._now.account()

    @property
    def _title(self) -> str:
        return f"{self._verdict[0]} · Energy Consumption Server"

    @property
    def _clock(self) -> str:
        return f"{utc.iso(int(self._now.now) * 1_000_000)[:19].replace('T', ' ')} UTC"

    def _faults(self) -> list[dict[str, object]]:
        since = self._history.since(self._health.reasons, self._now.now)
        return [
            {"reason": reason, "since": since[reason], "advice": advice(reason)}
            for reason in self._health.reasons
        ]

    def _readouts(self) -> list[dict[str, str]]:
        account, history, now = self._account, self._history, self._now
        span = "in the last hour" if history.span_s > 3500 else f"in {span_text(history.span_s)}"

        def risen(figure: str, value: int) -> str:
            return f"{history.risen(figure, value):+,} {span}" if history.span_s else ""

        sending = sum(device.samples_per_second > 0 for device in now.devices)
        free = now.database.health.free_bytes if now.database.health else None
        rate = sum(device.samples_per_second for device in now.devices)
        packed, backlog = now.total("packed_samples"), now.total("pack_backlog_minutes")
        return [
            _figure(
                "samples a second, now", f"{rate:,.0f}", f"{sending:,} of {count(len(now.devices), 'device')}"
            ),
            _figure("messages received", f"{account.received:,}", risen("received", account.received)),
            _figure("stored", f"{account.stored:,}", risen("stored", account.stored)),
            _figure("in the queue", f"{account.queued:,}", risen("queued", account.queued)),
            _figure("in the spool", f"{account.spooled:,}", risen("spooled", account.spooled)),
            _figure("rejected", f"{account.rejected:,}", risen("rejected", account.rejected)),
            _figure("samples packed", f"{packed:,}", f"{backlog:,} minutes to come" if backlog else ""),
            _figure("free for data", "–" if free is None else f"{free / 1e9:,.1f} GB", ""),
        ]

    def _first(self) -> Markup:
        wanted = not self._now.devices and not self._now.database.error
        return self._macros.first_meter(self._first_meter) if wanted else Markup("")

    def _workers(self) -> list[dict[str, str]]:
        return [
            {
                "name": worker.name,
                "state": worker.state,
                "fault": worker_fault(worker).removeprefix(worker.name).lstrip(": "),
            }
            for worker in self._now.workers
            if worker.expected
        ]

    # --- links ----------------------------------------------------------------------------

    @property
    def _asked(self) -> dict[str, str]:
        query = self._query
        return {"q": query.search, "sort": query.order, "page": str(query.page)}

    def _link(self, **changed: object) -> str:
        return f"/?{urlencode(self._asked | {name: str(value) for name, value in changed.items()})}"


def _figure(name: str, value: str, aside: str) -> dict[str, str]:
    return {"name": name, "value": value, "aside": aside}


def _account_items(account: Account) -> list[tuple[str, int]]:
    names = ("received", "stored", "duplicate", "rejected", "queued", "spooled", "lost")
    return [(name, getattr(account, name)) for name in names]


def _account_note(account: Account) -> str:
    if account.lost:
        return (
            "Lost was in a ring that is gone, after a power cut or because a file was removed; "
            "the synchronization brings it back from the device."
        )
    return "Every message is in exactly one place."
