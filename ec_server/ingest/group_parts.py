"""A group of messages as the steps in which it is committed: one per UTC day; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ec_server.ingest.group_settlement import Place
from utilities.model import Batch
from utilities.utc import DAY_S, day_of


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that were taken and checked, and where they end in the ring."""

    batches: Sequence[Batch]
    rejected: Mapping[str, int]
    end: Place
    taken_s: float
    settled_before: int = 0
    """How many of the messages a writer before this one has settled,"""
    settled_days_end: int = 0
    """which are of days before this one (epoch second)."""


def days_to_commit(group: Group) -> tuple[list[tuple[int, list[Batch]]], int]:
    """The days that are not settled, ascending, with their batches; and how many messages count twice.

    Where the batches of the settled days are not as many as were settled (the limits or the devices file
    changed since), every day is committed again, which changes no row that is there, and all that was
    settled before is counted twice. It is booked as ``taken_over`` at once, so that nothing of the group
    counts as settled any more: a writer that dies now leaves an account that the next one can go on with.
    ``counted_once`` then takes it off again.
    """
    days = by_day(group.batches)
    settled_days = [batches for day, batches in days if day < group.settled_days_end]
    if sum(map(len, settled_days)) == group.settled_before:
        return days[len(settled_days) :], 0
    return days, group.settled_before


def counted_once(changes: Mapping[str, int], twice: int) -> tuple[dict[str, int], int]:
    """A step's figures less the messages that count twice; and how many of them are left for later steps.

    What is taken off goes off ``taken_over``, too. What no step can take off stays there, and the account
    sums up all the same.
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
    """The batches of each UTC day, in their order, days ascending; nearly always there is one."""
    days = {second - second % DAY_S for second in {batch.second for batch in batches}}
    if len(days) == 1:
        return [(days.pop(), list(batches))]
    return [(day, [b for b in batches if day_of(b.second) == day]) for day in sorted(days)]
