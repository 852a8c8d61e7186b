"""Whether packing keeps pace with ingest: rows are stored while as many are packed, and without packing.

Rows that were stored first are packed while as many are stored into the same day file. The time ends when
both are done, so the rate of storing could be sustained indefinitely. Server, packer and load generator share
the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from benchmarks.packing_program import pack_all
from benchmarks.stored_rows import Sent, compare, stored_in
from benchmarks.storing_program import StoringProgram, this_server
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.storage.unpack import write_day
from reference_client.load_generator import LoadReport
from reference_client.load_plan import LoadPlan
from utilities.utc import DAY_S, HOUR_S, day_of, ec_date

Say = Callable[[str], None]
_Row = dict[str, Value]

_LEAST_A_SECOND = TEXT_FROM_EIGHT.devices * TEXT_FROM_EIGHT.messages_per_second
"""The rate of all devices, so that there are complete seconds to pack."""
_ALONE, _WITH = "without packing", "with packing that keeps pace"


@dataclass(frozen=True, slots=True)
class _Stored:
    """The cost of storing one load."""

    report: LoadReport
    sent: Sent
    elapsed_s: float
    server_s: float
    """The server's processor time."""
    packed: int = 0
    """Samples packed meanwhile."""
    packer_s: float = 0.0

    def cpu_us(self) -> tuple[float, float, float]:
        """Processor time per message of the server, the load generator and the packer."""
        count = self.report.answered
        return 1e6 * self.server_s / count, self.report.cpu_us_per_message, 1e6 * self.packer_s / count

    def row(self, name: str) -> _Row:
        """The row of the table."""
        server, generator, packer = self.cpu_us()
        a_second = self.report.answered / self.elapsed_s
        return {
            "server": name,
            "messages/s": a_second,
            "samples/s": samples_a_message(TEXT_FROM_EIGHT) * a_second,
            "its CPU µs/message": server,
            "generator CPU µs/message": generator,
            "packer CPU µs/message": packer,
        }


def run(effort: Effort, say: Say) -> Outcome:
    """Stored samples/s with packing that keeps pace / without packing, including the load generator."""
    rows: list[_Row] = []
    stored: list[float] = []
    processor: list[float] = []
    faults: list[str] = []
    for number in effort.each_round():
        say(f"round {number + 1} of {effort.rounds}")
        alone, beside, found = _measure(effort)
        rows += [alone.row(_ALONE), beside.row(_WITH)]
        faults += found
        stored.append(beside.report.answered / beside.elapsed_s / (alone.report.answered / alone.elapsed_s))
        processor.append(sum(alone.cpu_us()) / sum(beside.cpu_us()))
    return Outcome(
        "Storing while as much is packed",
        medians(rows, "server"),
        [
            Ratio("stored samples/s, with packing that keeps pace / without", tuple(stored), at_least=0.75),
            Ratio("processor time of a message, without packing / with", tuple(processor)),
        ],
        faults,
        ["the second ratio is what the first one comes to where all of the processor is used."],
        rows,
    )


def _measure(effort: Effort) -> tuple[_Stored, _Stored, list[str]]:
    """One round: without packing, with packing, and faults."""
    noon = day_of(int(time.time())) - DAY_S + 12 * HOUR_S
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program:
            warm, warm_sent, warm_s = offer(program, _plan(port, WARM_UP_MESSAGES, noon))
            with SqliteStore(program.storage) as store:
                pack_all(store, noon + HOUR_S)
            messages = int(effort.seconds * max(warm.answered / warm_s, _LEAST_A_SECOND))
            alone = _offer(program, _plan(port, messages, noon + HOUR_S))
            beside = _offer_and_pack(program, _plan(port, messages, noon + 2 * HOUR_S), folder)
        reports = (warm, alone.report, beside.report)
        faults = [fault for report in reports for fault in not_answered("the server", report)]
        if beside.packed < alone.report.answered * samples_a_message(TEXT_FROM_EIGHT):
            faults.append(f"{beside.packed} samples were packed, less than were stored")
        sent = [warm_sent, alone.sent, beside.sent]
        faults += in_words("the server", _count(program.storage, day_of(noon), sent))
    return alone, beside, faults


def _plan(port: int, messages: int, start: int) -> LoadPlan:
    return replace(renewed(TEXT_FROM_EIGHT, port=port, messages=messages), start=start)


def _offer(program: StoringProgram, plan: LoadPlan) -> _Stored:
    before = program.usage().cpu_s
    report, sent, elapsed_s = offer(program, plan)
    return _Stored(report, sent, elapsed_s, program.usage().cpu_s - before)


def _offer_and_pack(program: StoringProgram, plan: LoadPlan, folder: Path) -> _Stored:
    """Send a plan while everything stored before is packed, until both are done."""
    go = folder / "go"
    command = [PYTHON, "-m", "benchmarks.packing_program", str(program.storage), str(plan.start), str(go)]
    with MeasuredProgram("the packer", command, folder / "packer.log") as packer:
        packer.wait_until(lambda: packer.said() == "ready")
        go.touch()
        began = time.monotonic()
        stored = _offer(program, plan)
        packer.wait_until(lambda: packer.said().endswith("}"), 600)
        both_s = max(stored.elapsed_s, time.monotonic() - began)
        packed = json.loads(packer.said().splitlines()[-1])
    return replace(stored, elapsed_s=both_s, packed=packed["samples"], packer_s=packed["cpu_s"])


def _count(folder: Path, day: int, sent: Sequence[Sent]) -> list[str]:
    """Which rows of everything sent are missing, or were never sent, packed or not."""
    plain = folder.with_name("unpacked") / f"ec-{ec_date(day)}.sqlite"
    plain.parent.mkdir()
    with SqliteStore(folder, read_only=True) as store:
        write_day(store, day, None, plain)
    return compare(stored_in(plain.parent), sent).faults()
