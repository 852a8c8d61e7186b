"""The cost of each format of message: text of 44 samples, binary of 44 and of 300."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.competitors import server_with
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, medians
from benchmarks.peers import in_turns, one_as_dict, quotients
from reference_client.load_plan import FORMATS, LoadPlan

Say = Callable[[str], None]


def run(effort: Effort, say: Say) -> Outcome:
    """Stored samples per second of text with 44 samples per message, binary with 44 and with 300."""
    competitors = {
        form: server_with(form, {}, LoadPlan(devices=8, connections=4, format=form)) for form in FORMATS
    }
    rounds = in_turns(competitors, effort, say)
    return Outcome(
        "Forms of a message: TCP, SQLite, one receiver, 8 devices",
        medians([m.row() for one in rounds for m in one.values()], "competitor"),
        [
            Ratio(
                "stored samples/s, binary of 300 / text of 44",
                quotients(rounds, "binary300", "text44", lambda m: m.samples_per_second),
                at_least=2.0,
            )
        ],
        [fault for one in rounds for m in one.values() for fault in m.faults],
        (),
        [one_as_dict(number, m) for number, one in enumerate(rounds) for m in one.values()],
    )
