"""The minutes of an export's report: with samples or a verdict, in order, while they are found."""

from __future__ import annotations

from stored_data import MINUTE, store_second

from ec_server.export.extract import ExportedMinute, Notes, Report, extract
from ec_server.export.stored_seconds import Span
from ec_server.storage.memory_store import MemoryStore
from utilities.model import MinuteState, Verdict
from utilities.utc import DAY_S


def test_minutes_come_in_order_each_once_and_before_the_samples_after_them() -> None:
    store = MemoryStore()
    for offset in (60, 180, 2 * DAY_S):
        store_second(store, "m", MINUTE + offset, ["000000,1"])
    digests = dict(store.minute_digests("m", MINUTE, MINUTE + 3 * DAY_S))
    empty = [Verdict(MINUTE + at, MinuteState.EMPTY, None) for at in (0, 120, DAY_S, 2 * DAY_S + 60)]
    store.record_verdicts("m", [Verdict(MINUTE + 180, MinuteState.PROVEN, digests[MINUTE + 180]), *empty], 1)
    told: list[tuple[int, str]] = []

    def note(one: ExportedMinute) -> None:
        told.append(((one.minute - MINUTE) // 60, one.state))

    notes = Notes(lambda _start, _stop: None, note)
    seen = [list(told) for _ in extract(store, Span("m", MINUTE, MINUTE + 3 * DAY_S), notes, Report())]
    assert seen[1] == [(0, "empty"), (1, "unproven")]
    assert told[2:] == [
        (2, "empty"),
        (3, "proven"),
        (1440, "empty"),
        (2880, "unproven"),
        (2881, "empty"),
    ]
