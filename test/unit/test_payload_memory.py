"""The bound on payloads in memory, and who waits for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ec_server.synchronization.frames import MAX_PAYLOAD_BYTES
from ec_server.synchronization.payload_memory import LARGE_BYTES, PayloadMemory

LARGE, ORDINARY = MAX_PAYLOAD_BYTES, LARGE_BYTES


class Log(list[str]):
    """Who was let in later."""

    def of(self, who: str):
        return lambda: self.append(who)


def test_ordinary_payloads_get_through_while_large_ones_wait() -> None:
    memory, log = PayloadMemory(), Log()
    taken = [memory.take(f"hog {n}", LARGE, log.of(f"hog {n}")) for n in range(5)]
    assert taken == [True, True, True, False, False]
    assert memory.is_short
    assert all(memory.take(f"meter {n}", ORDINARY, log.of("meter")) for n in range(16))
    assert not memory.take("one too many", ORDINARY, log.of("one too many"))
    assert memory.held == memory.total
    memory.give_back("meter 3", ORDINARY)
    assert log == ["one too many"]
    memory.forget("hog 0")
    assert log == ["one too many", "hog 3"]


def test_the_connection_that_waits_longest_gets_memory_first() -> None:
    memory, log = PayloadMemory(total=100), Log()
    memory.take("a", 80, log.of("a"))
    for who, length in (("b", 50), ("c", 10), ("d", 60)):
        assert not memory.take(who, length, log.of(who))
    memory.forget("a")
    assert log == ["b", "c"]
    memory.forget("b")
    assert log == ["b", "c", "d"]


def test_one_connection_waits_for_itself_and_holds_up_nobody() -> None:
    memory, log = PayloadMemory(), Log()
    assert memory.take("a", LARGE, log.of("a"))
    assert not memory.take("a", LARGE, log.of("a again"))
    assert not memory.is_short
    assert memory.take("b", LARGE, log.of("b"))
    memory.give_back("a", LARGE)
    assert log == ["a again"]


def test_a_payload_that_moved_on_outlives_its_connection() -> None:
    memory, log = PayloadMemory(total=100), Log()
    memory.take("a", 90, log.of("a"))
    memory.move("a", "round", 90)
    memory.forget("a")
    assert not memory.take("b", 20, log.of("b"))
    memory.forget("round")
    assert (log, memory.held) == (["b"], 20)


def test_a_connection_that_has_ended_gets_no_memory() -> None:
    memory, log = PayloadMemory(total=100), Log()
    memory.take("a", 90, log.of("a"))
    memory.take("b", 20, log.of("b"))
    memory.forget("b")
    memory.give_back("b", 20)
    memory.forget("a")
    assert (list(log), memory.held) == ([], 0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["take", "give", "forget"]), st.integers(1, 3 * LARGE_BYTES)
        )
    )
)
def test_the_bound_holds_whatever_happens(events: list[tuple[int, str, int]]) -> None:
    memory = PayloadMemory(total=4 * LARGE_BYTES)
    held: dict[int, list[int]] = {who: [] for who in range(6)}
    waiting: set[int] = set()

    def granted(who: int, length: int) -> None:
        waiting.discard(who)
        held[who].append(length)

    for who, event, length in events:
        if event == "take" and who not in waiting:
            waiting.add(who)
            if memory.take(who, length, lambda who=who, length=length: granted(who, length)):
                granted(who, length)
        elif event == "give" and held[who]:
            memory.give_back(who, held[who].pop())
        elif event == "forget":
            held[who].clear()
            waiting.discard(who)
            memory.forget(who)
        assert memory.held == sum(map(sum, held.values())) <= memory.total
