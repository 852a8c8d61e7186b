"""Whether packing keeps pace with ingest: the same rows are stored with and without as many being packed.

What was stored first is packed while as much again is stored into the same day's file. The time runs until
both are done, so what is stored per second is what could be kept up for ever. Server, packer and load
generator share the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.competitors import (
    TEXT_FROM_EIGHT,
    WARM_UP_MESSAGES,
    in_words,
    not_answered,
    offer,
    renewed,
    samples_a_message,
)
from benchmarks.effort import Effort
from benchmarks.measured_program import PYTHON, MeasuredProgram
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import Sent, compare, stored_in
from benchmarks.storing_program import StoringProgram, this_server
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.storage.unpack import write_day
from reference_client.load_generator import LoadReport
from reference_client.load_plan import LoadPlan
from utilities.utc import DAY_S, HOUR_S, day_of, ec_date

Say = Callable[[str], None]
_Row = dict[str, Value]

_ALONE, _WITH = "without packing", "with packing that keeps pace"


def run(effort: Effort, say: Say) -> Outcome:
    """Stored samples/s with packing that keeps pace / without packing, the load generator included."""
    rows: list[_Row] = []
    quotients: list[float] = []
    faults: list[str] = []
    for number in effort.each_round():
        say(f"round {number + 1} of {effort.rounds}")
        of_round, found = _measure(effort)
        rows += of_round
        faults += found
        alone, beside = (row["samples/s"] for row in of_round)
        assert isinstance(alone, float)
        assert isinstance(beside, float)
        quotients.append(beside / alone)
    return Outcome(
        "Storing while as much is packed",
        medians(rows, "server"),
        [Ratio("stored samples/s, with packing that keeps pace / without", tuple(quotients), at_least=0.75)],
        faults,
        [],
        rows,
    )


def _measure(effort: Effort) -> tuple[list[_Row], list[str]]:
    """One round: both rows of the table, and faults."""
    noon = day_of(int(time.time())) - DAY_S + 12 * HOUR_S
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program:
            warm, warm_sent, warm_s = offer(program, _plan(port, WARM_UP_MESSAGES, noon))
            messages = int(effort.seconds * warm.answered / warm_s)
            first, first_sent, alone_s = offer(program, _plan(port, messages, noon + HOUR_S))
            second, second_sent, both_s, packed = _offer_and_pack(
                program, _plan(port, messages, noon + 2 * HOUR_S), folder
            )
        sent = [warm_sent, first_sent, second_sent]
        faults = [fault for report in (warm, first, second) for fault in not_answered("the server", report)]
        if packed["samples"] < first.answered * samples_a_message(TEXT_FROM_EIGHT):
            faults.append(f"{packed['samples']} samples were packed, less than were stored")
        faults += in_words("the server", _count(program.storage, day_of(noon), sent))
    return [_row(_ALONE, first, alone_s, 0.0), _row(_WITH, second, both_s, packed["cpu_s"])], faults


def _plan(port: int, messages: int, start: int) -> LoadPlan:
    return replace(renewed(TEXT_FROM_EIGHT, port=port, messages=messages), start=start)


def _offer_and_pack(
    program: StoringProgram, plan: LoadPlan, folder: Path
) -> tuple[LoadReport, Sent, float, dict[str, float]]:
    """Send a plan while all that was stored before is packed; seconds until both are done."""
    go = folder / "go"
    command = [PYTHON, "-m", "benchmarks.packing_program", str(program.storage), str(plan.start), str(go)]
    with MeasuredProgram("the packer", command, folder / "packer.log") as packer:
        packer.wait_until(lambda: packer.said() == "ready")
        go.touch()
        began = time.monotonic()
        report, sent, took_s = offer(program, plan)
        packer.wait_until(lambda: packer.said().endswith("}"), 600)
        both_s = max(took_s, time.monotonic() - began)
        packed: dict[str, float] = json.loads(packer.said().splitlines()[-1])
    return report, sent, both_s, packed


def _row(name: str, report: LoadReport, elapsed_s: float, packing_s: float) -> _Row:
    messages_a_second = report.answered / elapsed_s
    return {
        "server": name,
        "messages/s": messages_a_second,
        "samples/s": samples_a_message(TEXT_FROM_EIGHT) * messages_a_second,
        "generator CPU µs/message": report.cpu_us_per_message,
        "packer CPU µs/message": 1e6 * packing_s / report.answered,
    }


def _count(folder: Path, day: int, sent: Sequence[Sent]) -> list[str]:
    """What is missing or foreign of all that was sent, packed or not."""
    plain = folder.with_name("unpacked") / f"ec-{ec_date(day)}.sqlite"
    plain.parent.mkdir()
    with SqliteStore(folder, read_only=True) as store:
        write_day(store, day, None, plain)
    return compare(stored_in(plain.parent), sent).faults()
