"""The benchmarks count what they store, and a run that lost a batch is a failed run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from needs import need

import benchmarks.__main__ as command
from benchmarks import pace
from benchmarks.competitors import Measured, bare_callback, offer, renewed, server_with
from benchmarks.effort import Effort
from benchmarks.instructions import self_costs
from benchmarks.mosquitto import MosquittoPair, mosquitto_program
from benchmarks.mqtt_publisher import publish
from benchmarks.outcome import Outcome, Ratio, medians
from benchmarks.peers import in_turns, quotients
from benchmarks.stored_rows import RowCount, Sent, count_rows
from benchmarks.storing_program import this_server
from reference_client.load_plan import LoadPlan

PLAN = LoadPlan(devices=4, connections=2)


@pytest.fixture
def effort(tmp_path: Path) -> Effort:
    return Effort(rounds=1, seconds=0.2, folder=tmp_path / "results")


def rows_after(change: str, folder: Path, sent: Sent) -> RowCount:
    """Count again after another program changed the database."""
    (path,) = folder.glob("ec-*.sqlite")
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()
    return count_rows(folder, [sent])


def test_the_bare_callback_and_this_server_are_compared_and_nothing_is_left_behind(effort: Effort):
    said: list[str] = []
    rounds = in_turns(
        {"bare callback": bare_callback, "server": server_with("server", {})}, effort, said.append
    )
    bare, server = rounds[0]["bare callback"], rounds[0]["server"]
    assert bare.faults == server.faults == ()
    assert server.figures["stored"] == server.figures["received"] > server.messages >= 1000
    assert quotients(rounds, "server", "bare callback")[0] > 0
    assert all(value > 0 for m in (bare, server) for value in m.row().values() if isinstance(value, float))
    assert len(said) == 2
    assert list(effort.folder.iterdir()) == []


def test_a_missing_a_changed_and_a_foreign_row_are_found(effort: Effort):
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program:
            report, sent, elapsed_s = offer(program, renewed(PLAN, port=port, messages=1000))
        assert (report.answered, elapsed_s > 0) == (1000, True)
        assert count_rows(program.storage, [sent]) == RowCount(1000, 1000, 0, 0)
        row = "rowid = (SELECT rowid FROM ec_consumption ORDER BY rowid LIMIT 1 OFFSET {})"
        found = rows_after("DELETE FROM ec_consumption WHERE " + row.format(499), program.storage, sent)
        assert found == RowCount(1000, 999, 1, 0)
        assert found.faults() == ["1 of 1000 acknowledged batches are not stored"]
        changed = "UPDATE ec_consumption SET ec_consumption_values = '000000,1' WHERE " + row.format(0)
        found = rows_after(changed, program.storage, sent)
        assert found == RowCount(1000, 999, 2, 1)
        assert len(found.faults()) == 2
        # What nobody acknowledged may be missing; it may be there, too.
        assert count_rows(program.storage, [replace(sent, unanswered=tuple(range(1000)))]).missing == 0


def test_what_is_stored_while_as_much_is_packed_is_counted_packed_or_not(effort: Effort):
    outcome = pace.run(replace(effort, seconds=0.05), lambda _: None)
    assert outcome.faults == []
    assert [row["server"] for row in outcome.rounds] == ["without packing", "with packing that keeps pace"]
    assert all(value > 0 for value in outcome.ratios[0].rounds)
    assert outcome.rounds[1]["packer CPU µs/message"] > 0
    assert list(effort.folder.iterdir()) == []


def test_a_publisher_and_a_subscriber_with_the_same_writer_store_the_same_rows(effort: Effort):
    need("mosquitto", "mosquitto")
    assert mosquitto_program()
    with effort.fresh_folder() as folder:
        with MosquittoPair(folder) as pair:
            plan = renewed(PLAN, port=pair.port, messages=1500)
            report = publish(plan)
            pair.subscriber.wait_until_settled(1500)
            assert report.messages == 1500
        assert count_rows(pair.subscriber.storage, [Sent(plan)]) == RowCount(1500, 1500, 0, 0)


@pytest.mark.parametrize(("faults", "code"), [((), 0), (("a batch is missing",), 1)])
def test_the_command_fails_where_a_batch_was_lost(
    faults: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(effort: Effort, _say: Callable[[str], None]) -> Outcome:
        """Finds what it was told to."""
        ratio = Ratio("of rounds", (1.0, 3.0, 2.0), at_least=2.0)
        return Outcome("Title", [{"what": "it", "rounds": effort.rounds}], [ratio], faults)

    monkeypatch.setitem(command.BENCHMARKS, "told", run)
    path = tmp_path / "found.json"
    assert command.main(["told", "--rounds", "3", "--json", str(path)]) == code
    written = json.loads(path.read_text())
    assert written["faults"] == list(faults)
    (ratio,) = written["benchmarks"]["told"]["ratios"]
    assert (ratio["median"], ratio["verdict"]) == (2.0, "reached")


def test_rows_of_rounds_become_medians():
    rows = [{"what": w, "rate": r} for w, r in (("a", 1.0), ("b", 9.0), ("a", 5.0), ("a", 2.0))]
    assert medians(rows, "what") == [{"what": "a", "rate": 2.0}, {"what": "b", "rate": 9.0}]


def test_competitors_take_turns_and_change_places():
    order: list[str] = []

    def competitor(name: str) -> Callable[[Effort], Measured]:
        def measure(_effort: Effort) -> Measured:
            order.append(name)
            return Measured(name, 1, 1.0, 44.0, 1.0, {}, {})

        return measure

    in_turns({n: competitor(n) for n in "ab"}, Effort(3, 1, Path()), lambda _: None)
    assert "".join(order) == "abbaab"


def test_a_profile_s_own_costs_are_summed_by_library_without_those_of_calls():
    profile = """
events: Ir
ob=(1) /lib/one.so
fn=(1) f
12 100
+3 20
cob=(2) /lib/two.so
cfn=(2) g
calls=5 7
-1 900
* 3
ob=(2)
fn=(2) g
9 450
ob=(1)
fn=(3) h
1 7
totals: 580
""".strip().splitlines()
    assert self_costs(profile) == {"/lib/one.so": 130, "/lib/two.so": 450}
