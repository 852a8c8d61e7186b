"""What several writers and readers of one minute know of each other."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from ec_server.storage.cassandra_minutes import (
    LEASE_S,
    SETTLED,
    SKEW_S,
    MinuteLines,
    WriterLine,
    digest_proof,
    fingerprint,
    state_proof,
)
from ec_server.storage.timeuuid import microseconds, timeuuid
from utilities.model import Digest, MinuteState

NOON = 1_772_366_400
NOW_US = NOON * 1_000_000


def lines(*, lease_us: int | None = None, **known: object) -> MinuteLines:
    return MinuteLines(NOON, {"a": WriterLine(7, lease_us)}, **known)  # type: ignore[arg-type]


def test_a_conclusion_holds_while_no_version_changes() -> None:
    before = lines()
    concluded = {
        "digest_version": before.fingerprint,
        "minute_count": 4,
        "minute_md5": "ff",
        "state": MinuteState.PROVEN,
        "state_version": before.fingerprint,
        "digest_proof": digest_proof(before.fingerprint, Digest(4, "ff")),
        "state_proof": state_proof(before.fingerprint, MinuteState.PROVEN),
    }
    same = MinuteLines(NOON, {"a": WriterLine(7, None)}, **concluded)
    assert same.minute_digest(NOW_US) == (True, Digest(4, "ff"))
    assert same.verdict(NOW_US) is MinuteState.PROVEN
    for changed in ({"a": WriterLine(8, None)}, {**before.writers, "b": WriterLine(7, None)}, {}):
        after = MinuteLines(NOON, changed, **concluded)
        assert after.minute_digest(NOW_US) == (False, None)
        assert after.verdict(NOW_US) is None


def test_a_conclusion_holds_only_where_the_very_same_stands_with_the_rows() -> None:
    version = lines().fingerprint
    proven = {"state": MinuteState.PROVEN, "state_version": version}
    digest = {"digest_version": version, "minute_count": 4, "minute_md5": "ff"}
    for beside in (None, "", version, state_proof("older", MinuteState.PROVEN), f"{version} unresolved"):
        assert lines(**proven, state_proof=beside).verdict(NOW_US) is None
    for beside in (None, "", digest_proof("older", Digest(4, "ff")), digest_proof(version, Digest(3, "ff"))):
        assert lines(**digest, digest_proof=beside).minute_digest(NOW_US) == (False, None)
    assert lines(state_proof=state_proof(version, MinuteState.PROVEN)).verdict(NOW_US) is None


def test_a_conclusion_may_be_drawn_while_a_living_writer_holds_the_minute() -> None:
    held = lines(lease_us=NOW_US + LEASE_S * 1_000_000)
    assert held.is_leased
    assert held.abandoned(NOW_US) == []
    proven = lines(
        lease_us=NOW_US + LEASE_S * 1_000_000,
        state=MinuteState.PROVEN,
        state_version=held.fingerprint,
        state_proof=state_proof(held.fingerprint, MinuteState.PROVEN),
    )
    assert proven.verdict(NOW_US) is MinuteState.PROVEN


def test_a_line_whose_lease_is_long_over_proves_nothing_until_it_is_settled() -> None:
    late_us = NOW_US - (SKEW_S + 1) * 1_000_000
    dead = lines(lease_us=late_us)
    proven = lines(
        lease_us=late_us,
        state=MinuteState.PROVEN,
        state_version=dead.fingerprint,
        state_proof=state_proof(dead.fingerprint, MinuteState.PROVEN),
    )
    assert dead.abandoned(NOW_US) == [("a", 7)]
    assert proven.verdict(NOW_US) is None
    settled = MinuteLines(NOON, {**dead.writers, "a" + SETTLED: WriterLine(7, None)})
    assert settled.abandoned(NOW_US) == []
    assert not settled.is_leased
    assert settled.fingerprint != dead.fingerprint


def test_a_writer_that_comes_back_to_life_is_not_covered_by_its_settlement() -> None:
    revived = {
        "a": WriterLine(9, NOW_US),
        "a" + SETTLED: WriterLine(7, None),
    }
    assert MinuteLines(NOON, revived).is_leased


def test_clocks_within_the_stated_difference_do_not_bury_a_living_writer() -> None:
    assert lines(lease_us=NOW_US - (SKEW_S - 1) * 1_000_000).abandoned(NOW_US) == []


def test_an_empty_minute_may_be_recorded_without_writers() -> None:
    empty = MinuteLines(NOON, {}, state=MinuteState.EMPTY, state_version="")
    assert empty.verdict(NOW_US) is MinuteState.EMPTY
    assert not empty.was_written


@given(st.dictionaries(st.uuids().map(str), st.integers(0, 9), max_size=3), st.uuids(), st.integers(0, 9))
def test_every_change_of_writers_changes_the_fingerprint(
    versions: dict[str, int], another: uuid.UUID, version: int
) -> None:
    before = fingerprint(versions.items())
    assert fingerprint(reversed(list(versions.items()))) == before
    assert fingerprint({**versions, str(another): version}.items()) != before


@given(st.integers(0, 4_000_000_000_000_000))
def test_moments_survive_as_timeuuid_and_keep_their_order(moment_us: int) -> None:
    made = timeuuid(moment_us)
    assert made.version == 1
    assert made.variant == uuid.RFC_4122
    assert microseconds(made) == moment_us
    assert timeuuid(moment_us + 1).time > made.time
