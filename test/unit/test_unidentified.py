"""Which connection is closed when too many are unauthenticated."""

from __future__ import annotations

from ec_server.synchronization.unidentified import Unidentified


def test_above_its_limit_the_oldest_connection_of_a_source_is_closed() -> None:
    connections: Unidentified[str] = Unidentified(most=10, most_of_source=3)
    assert [connections.add("a", f"a{n}") for n in range(3)] == [None, None, None]
    assert connections.add("b", "b0") is None
    assert connections.add("a", "a3") == "a0"
    connections.remove("a", "a0")
    assert connections.add("a", "a4") == "a1"


def test_above_the_total_limit_the_oldest_connection_of_the_largest_source_is_closed() -> None:
    connections: Unidentified[str] = Unidentified(most=4, most_of_source=3)
    for source, name in (("b", "b0"), ("a", "a0"), ("a", "a1"), ("c", "c0")):
        assert connections.add(source, name) is None
    assert connections.add("d", "honest") == "a0"


def test_a_connection_that_was_identified_or_has_ended_is_no_longer_counted() -> None:
    connections: Unidentified[str] = Unidentified(most=10, most_of_source=2)
    connections.add("a", "a0")
    connections.add("a", "a1")
    connections.remove("a", "a0")
    connections.remove("a", "a0")
    connections.remove("b", "b0")
    assert len(connections) == 1
    assert connections.add("a", "a2") is None
