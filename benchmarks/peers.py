"""This server against its limit and against what a user would take instead, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.competitors import Competitor, Measured, bare_callback, mosquitto, server_with
from benchmarks.effort import Effort
from benchmarks.mosquitto import mosquitto_program
from benchmarks.outcome import Outcome, Ratio, medians

Say = Callable[[str], None]

_SERVER = "this server, SQLite"
_LIMITS = (
    ("bare callback", 0.6),
    ("mosquitto and paho", 2.5),
)


def run(effort: Effort, say: Say) -> Outcome:
    """Stored batches a second over TCP, one receiver, text of 44 samples from 8 devices."""
    competitors: dict[str, Competitor] = {
        "bare callback": bare_callback,
        _SERVER: server_with(_SERVER, {}),
    }
    notes = []
    if mosquitto_program():
        competitors["mosquitto and paho"] = mosquitto
    else:
        notes.append("mosquitto is missing (apt-get install mosquitto): not compared")
    rounds = in_turns(competitors, effort, say)
    return Outcome(
        "Stored batches/s: TCP, one receiver, text of 44 samples, 8 devices",
        medians([m.row() for one in rounds for m in one.values()], "competitor"),
        [
            Ratio(f"stored batches/s, TCP, SQLite / {name}", quotients(rounds, _SERVER, name), at_least)
            for name, at_least in _LIMITS
            if name in competitors
        ],
        [fault for one in rounds for m in one.values() for fault in m.faults],
        notes,
        [one_as_dict(number, m) for number, one in enumerate(rounds) for m in one.values()],
    )


def in_turns(competitors: Mapping[str, Competitor], effort: Effort, say: Say) -> list[dict[str, Measured]]:
    """Every competitor once a round; each second round in the opposite order."""
    rounds = []
    for number in range(effort.rounds):
        order = list(competitors) if number % 2 == 0 else list(competitors)[::-1]
        measured = {}
        for name in order:
            measured[name] = competitors[name](effort)
            say(f"round {number + 1} of {effort.rounds}: {name}: {measured[name].per_second:,.0f} messages/s")
        rounds.append({name: measured[name] for name in competitors})
    return rounds


def quotients(
    rounds: Sequence[Mapping[str, Measured]],
    of: str,
    by: str,
    figure: Callable[[Measured], float] = lambda measured: measured.per_second,
) -> tuple[float, ...]:
    """One competitor's figure divided by another's, round by round."""
    return tuple(figure(one[of]) / figure(one[by]) for one in rounds)


def one_as_dict(number: int, measured: Measured) -> dict[str, object]:
    """For JSON: everything of one measurement."""
    return {
        "round": number + 1,
        **measured.row(),
        "messages": measured.messages,
        "cpu_us": dict(measured.cpu_us),
        "peak_mb": dict(measured.peak_mb),
        "figures": dict(measured.figures),
    }
