"""What happened to the group that a writer was committing when it died, and where the next begins; pure.

A group is taken from the ring, checked, and committed one UTC day after the other; each commit is one step
of the account. The last step also counts rejected messages and advances the ring past the group. Before the
first commit, the ring notes where the group ends. Before each commit, the page notes its number (the
intent), and the database commits the same number with the rows (the mark). These are the points at which
the writer can die, and what the next writer does:

=================================  ===========================================  ===========================
the writer died                    recognised by                                the next writer
=================================  ===========================================  ===========================
before the group's end was noted   no group is noted beyond what is settled     takes a new group
before a day's commit              the mark is not the intent's                 takes the same group, without
                                                                                the days settled before
after a day's commit, before its   the mark is the intent's number, and the     counts what the mark says,
step of the account                account has not settled that number          then as below
the same, with Cassandra           there are no marks                           commits that day again: the
                                                                                same rows, so no duplicates
after the spool took a day,        more in the spool than the page says, and    counts them as spooled, then
before its step                    no more than the group lacks                 as below
after the last step                all of the group is settled                  takes a new group
after a drained group was removed  the spool notes a group as drained that the  counts it as the spool
from the spool, before its step    page does not know                           notes it
at any point, ring's file gone     the ring was made after these were received  counts as lost what neither
                                                                                account nor mark settles
at any point, page gone            more in the spool than any group explains    counts them as taken over
=================================  ===========================================  ===========================

"As below": if that completes the group, the ring advances past it. Otherwise the same messages are taken
again, as a group of their own, of which ``settled_before`` are settled: those of the days up to the one that
the last settled intent names.

For the SIP process there are only two cases: a message whose record was written but not counted is
overwritten by the next one; a message that was counted is in the ring, and is taken like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from utilities.utc import DAY_S


class Place(NamedTuple):
    """A position between two messages of a ring."""

    position: int
    """Bytes since the ring was made."""
    messages: int
    """Number of all messages before it, ever."""


class Death(Enum):
    """At which point the previous writer died, as far as it matters."""

    NOTHING_IN_HAND = "no group was being processed"
    BEFORE_COMMIT = "before the group, or the rest of it, was committed"
    AFTER_COMMIT = "after a commit that the account does not know of"
    AFTER_SPOOLING = "after a part went to the spool that the account does not know of"
    RING_GONE = "the ring that the group was in is gone"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known when a writer begins."""

    settled: int
    """Received messages that the account has settled."""
    ring: Place
    """Where the unsettled part of the ring begins, according to the figures."""
    ring_base: int
    """Messages received before the ring's file was made."""
    group_end: Place
    """The end of the last group that was noted."""
    settled_sequence: int
    """Number of the last commit that the account knows."""
    intended_sequence: int
    """Number of the last commit, or append to the spool, that was begun."""
    intended_day: int = 0
    """The UTC day of that commit, epoch second."""
    mark: tuple[int, int, int] | None = None
    """``(sequence, stored, duplicate)`` from the database; None if there is none, or it keeps no marks."""
    spooled: int = 0
    """Batches in the spool according to the account."""
    in_spool: int = 0
    """Batches that are really in the spool."""
    drained: Mapping[str, int] = field(default_factory=dict)
    """The step for a group that left the spool without the account knowing."""

    @property
    def asks_for_mark(self) -> bool:
        """Whether a commit is in doubt, so that the mark must be read from the database."""
        in_hand = self.group_end.messages > self.settled or self.ring.messages <= self.ring_base
        return self.intended_sequence > self.settled_sequence and in_hand


@dataclass(frozen=True, slots=True)
class GroupSettlement:
    """What the next writer has to do first."""

    death: Death
    begin: Place
    """From where it takes messages."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """Changes of the account's figures, applied in one step."""
    group_size: int = 0
    """Number of messages to take as one group, which is partly settled; 0 for as many as there are."""
    settled_before: int = 0
    """Number of settled messages in that group,"""
    settled_days_end: int = 0
    """all of them of days before this one (epoch second)."""


def settle(evidence: Evidence) -> GroupSettlement:
    """Decide what happened to the group; the result's ``changes`` update the account accordingly."""
    lacks = evidence.group_end.messages - evidence.settled
    spooled = evidence.spooled + evidence.drained.get("spooled", 0)
    spool_changes, newly_spooled = spool_agreement(spooled, evidence.in_spool, lacks)
    commit_changes = _commit_in_doubt(evidence)
    done = sum(commit_changes.get(name, 0) for name in ("stored", "duplicate")) + newly_spooled
    if newly_spooled:
        spool_changes["settled_sequence"] = evidence.intended_sequence - evidence.settled_sequence
    changes = _sum(evidence.drained, spool_changes, commit_changes)
    if evidence.ring.messages <= evidence.ring_base and evidence.settled + done <= evidence.ring_base:
        lost = evidence.ring_base - evidence.settled - done
        begin = Place(0, evidence.ring_base)
        death = Death.RING_GONE if lost or done else Death.NOTHING_IN_HAND
        return GroupSettlement(death, begin, _sum(changes, {"lost": lost}, _move(evidence.ring, begin)))
    settled = evidence.settled + done
    end = evidence.group_end
    whole = settled == end.messages and end.messages > evidence.ring.messages
    begin = end if whole else evidence.ring
    before = settled - begin.messages
    death = _death(evidence, commit_changes, newly_spooled)
    changes = _sum(changes, _move(evidence.ring, begin))
    if not before:
        return GroupSettlement(death, begin, changes)
    is_settled = evidence.settled_sequence + changes.get("settled_sequence", 0) >= evidence.intended_sequence
    days_end = evidence.intended_day + (DAY_S if is_settled else 0)
    return GroupSettlement(death, begin, changes, end.messages - begin.messages, before, days_end)


def _death(evidence: Evidence, commit_changes: Mapping[str, int], newly_spooled: int) -> Death:
    if commit_changes:
        return Death.AFTER_COMMIT
    if newly_spooled:
        return Death.AFTER_SPOOLING
    return Death.BEFORE_COMMIT if evidence.group_end.messages > evidence.settled else Death.NOTHING_IN_HAND


def _commit_in_doubt(evidence: Evidence) -> dict[str, int]:
    """The step of a commit that happened but is not in the account."""
    mark = evidence.mark
    if mark is None or not evidence.asks_for_mark or mark[0] != evidence.intended_sequence:
        return {}
    return {
        "stored": mark[1],
        "duplicate": mark[2],
        "settled_sequence": mark[0] - evidence.settled_sequence,
    }


def spool_agreement(spooled: int, in_spool: int, group_lacks: int) -> tuple[dict[str, int], int]:
    """The step that makes an account agree with its spool, and how much of it belongs to the current group.

    ``spooled`` is the account's figure, ``in_spool`` the real number, ``group_lacks`` how many messages of
    the current group are not settled.
    """
    more = in_spool - spooled
    if more == 0:
        return {}, 0
    if more < 0:
        return {"spooled": more, "stored": -more}, 0
    if more <= group_lacks:
        return {"spooled": more}, more
    return {"spooled": more, "taken_over": more}, 0


def _move(ring: Place, to: Place) -> dict[str, int]:
    return {"ring_position": to.position - ring.position, "ring_count": to.messages - ring.messages}


def _sum(*changes: Mapping[str, int]) -> dict[str, int]:
    """Several changes combined; zeros are left out."""
    names = {name for one in changes for name in one}
    sums = {name: sum(one.get(name, 0) for one in changes) for name in names}
    return {name: amount for name, amount in sums.items() if amount}
