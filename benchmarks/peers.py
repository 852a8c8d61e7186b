"""Compares this server with its limit and with what a user might use instead, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.competitors import (
    Competitor,
    Measured,
    bare_callback,
    driver_alone,
    mosquitto,
    questdb,
    server_with,
)
from benchmarks.effort import Effort
from benchmarks.mosquitto import mosquitto_program
from benchmarks.outcome import Outcome, Ratio, medians
from benchmarks.own_node import own_node
from ec_server.storage.cassandra_rows import ROWS_A_PIECE

Say = Callable[[str], None]

_SERVER = "this server, SQLite"
_MOSQUITTO = "mosquitto and paho"
_ON_CASSANDRA = "this server, Cassandra"
_DRIVER = "Cassandra driver alone"
_ROW_BY_ROW = "driver, row by row"

_QUESTDB = "QuestDB"
_DEDUPLICATING = "QuestDB, deduplicating"

_QUOTIENTS = (
    ("stored batches/s, TCP, SQLite, one receiver / bare PJSUA2 callback", _SERVER, "bare callback", 0.6),
    ("stored batches/s, TCP, SQLite / mosquitto with paho and the same writer", _SERVER, _MOSQUITTO, 2.5),
    ("stored batches/s, TCP, Cassandra / the driver alone with the same rows", _ON_CASSANDRA, _DRIVER, 0.7),
    ("the same / the driver alone, a request for each row", _ON_CASSANDRA, _ROW_BY_ROW, None),
    ("stored batches/s, TCP, SQLite / QuestDB's line protocol, lines ready-made", _SERVER, _QUESTDB, None),
    ("the same / QuestDB with deduplication", _SERVER, _DEDUPLICATING, None),
)


def run(effort: Effort, say: Say) -> Outcome:
    """Stored batches per second, against the bare callback, mosquitto, QuestDB and the Cassandra driver."""
    competitors: dict[str, Competitor] = {
        "bare callback": bare_callback,
        _SERVER: server_with(_SERVER, {}),
    }
    notes = []
    if mosquitto_program():
        competitors[_MOSQUITTO] = mosquitto
    else:
        notes.append("mosquitto is missing (apt-get install mosquitto): not compared")
    if effort.questdb:
        competitors[_QUESTDB] = questdb(_QUESTDB, deduplication=False)
        competitors[_DEDUPLICATING] = questdb(_DEDUPLICATING, deduplication=True)
    else:
        notes.append("QuestDB is compared with --questdb")
    with ExitStack() as stack:
        if effort.cassandra:
            say("starting a Cassandra node")
            node = stack.enter_context(own_node(effort))
            on_cassandra = server_with(_ON_CASSANDRA, node.options, count=node.count_rows)
            competitors[_ON_CASSANDRA] = on_cassandra
            competitors[_DRIVER] = driver_alone(_DRIVER, node, ROWS_A_PIECE)
            competitors[_ROW_BY_ROW] = driver_alone(_ROW_BY_ROW, node, 1)
        else:
            notes.append("Cassandra is compared with --cassandra")
        rounds = in_turns(competitors, effort, say)
    return Outcome(
        "Stored batches/s: TCP, one receiver, text of 44 samples, 8 devices",
        medians([m.row() for one in rounds for m in one.values()], "competitor"),
        [
            Ratio(name, quotients(rounds, of, by), at_least)
            for name, of, by, at_least in _QUOTIENTS
            if {of, by} <= competitors.keys()
        ],
        [fault for one in rounds for m in one.values() for fault in m.faults],
        [*notes, *(_parts(name, [one[name] for one in rounds]) for name in competitors)],
        [one_as_dict(number, m) for number, one in enumerate(rounds) for m in one.values()],
    )


def in_turns(competitors: Mapping[str, Competitor], effort: Effort, say: Say) -> list[dict[str, Measured]]:
    """Measure every competitor once per round; every second round in reverse order."""
    rounds = []
    for number in effort.each_round():
        order = list(competitors) if number % 2 == 0 else list(competitors)[::-1]
        measured = {}
        for name in order:
            measured[name] = competitors[name](effort)
            say(f"round {number + 1} of {effort.rounds}: {name}: {measured[name].per_second:,.0f} messages/s")
        rounds.append({name: measured[name] for name in competitors})
    return rounds


def _parts(name: str, of: Sequence[Measured]) -> str:
    """A text that shows the processor time of each part: medians."""
    parts = (f"{part} {statistics.median(m.cpu_us[part] for m in of):.1f}" for part in of[0].cpu_us)
    return f"CPU µs/message, {name}: {', '.join(parts)}"


def quotients(
    rounds: Sequence[Mapping[str, Measured]],
    of: str,
    by: str,
    figure: Callable[[Measured], float] = lambda measured: measured.per_second,
) -> tuple[float, ...]:
    """One competitor's figure divided by another's, for each round."""
    return tuple(figure(one[of]) / figure(one[by]) for one in rounds)


def one_as_dict(number: int, measured: Measured) -> dict[str, object]:
    """All figures of one measurement, for JSON."""
    return {
        "round": number + 1,
        **measured.row(),
        "messages": measured.messages,
        "cpu_us": dict(measured.cpu_us),
        "peak_mb": dict(measured.peak_mb),
        "figures": dict(measured.figures),
    }
