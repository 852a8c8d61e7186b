"""Splits a group of messages into the steps of its commit, one per UTC day; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ec_server.ingest.group_settlement import Place
from utilities.model import Batch
from utilities.utc import DAY_S, day_of


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that were taken from the ring and checked, and where they end in it."""

    batches: Sequence[Batch]
    rejected: Mapping[str, int]
    end: Place
    taken_s: float
    settled_before: int = 0
    """How many of the messages an earlier writer has settled already,"""
    settled_days_end: int = 0
    """all of them of days before this one (epoch second)."""


def days_to_commit(group: Group) -> tuple[list[tuple[int, list[Batch]]], int]:
    """The days to commit, ascending, with their batches, and how many messages would be counted twice.

    If the settled days do not have as many batches as were settled (the limits or the devices file have
    changed), every day is committed again, which changes no stored row, and the settled messages would be
    counted twice. Their number is added to ``taken_over`` at once, so that nothing of the group counts as
    settled any more: if the writer dies now, the next one can continue from the account. ``counted_once``
    then subtracts them again.
    """
    days = by_day(group.batches)
    settled_days = [batches for day, batches in days if day < group.settled_days_end]
    if sum(map(len, settled_days)) == group.settled_before:
        return days[len(settled_days) :], 0
    return days, group.settled_before


def counted_once(changes: Mapping[str, int], twice: int) -> tuple[dict[str, int], int]:
    """A step's figures without messages that were counted before, and how many of those are left.

    What is subtracted is subtracted from ``taken_over`` as well. What no step can subtract stays there, so
    that the account's sum is right in any case.
    """
    once = dict(changes)
    names = ("duplicate", "stored", *(name for name in once if name.startswith("rejected_")))
    for name in names:
        less = min(twice, once.get(name, 0))
        if less:
            once[name] -= less
            once["taken_over"] = once.get("taken_over", 0) - less
            twice -= less
    return once, twice


def by_day(batches: Sequence[Batch]) -> list[tuple[int, list[Batch]]]:
    """The batches of each UTC day, in their order, days ascending; nearly always there is one day."""
    days = {second - second % DAY_S for second in {batch.second for batch in batches}}
    if len(days) == 1:
        return [(days.pop(), list(batches))]
    return [(day, [b for b in batches if day_of(b.second) == day]) for day in sorted(days)]
