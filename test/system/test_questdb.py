"""QuestDB as the benchmarks run it: every sample becomes a row, and deduplication knows them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from needs import unavailable

from benchmarks.measured_program import BenchmarkError
from benchmarks.questdb import QuestDb, write_lines
from reference_client.load_plan import LoadPlan


def running(folder: Path, *, deduplication: bool) -> QuestDb:
    try:
        return QuestDb(folder, deduplication=deduplication)
    except BenchmarkError as error:
        unavailable(str(error))


@pytest.mark.soak  # a Java program of its own, for a benchmark alone
@pytest.mark.parametrize("deduplication", [False, True])
def test_every_sample_is_a_row_and_deduplication_knows_it_again(tmp_path: Path, deduplication: bool) -> None:
    plan = LoadPlan(devices=2, connections=2, messages=20)
    lines = tmp_path / "lines"
    assert write_lines(lines, plan.batches()) == 20 * 44
    with running(tmp_path, deduplication=deduplication) as server:
        server.send([lines, lines])
        server.wait_for(880 if deduplication else 1760)
        found = server.ask("SELECT device, count_distinct(timestamp) FROM power ORDER BY device")
    assert found == [[plan.device_id(0), 440], [plan.device_id(1), 440]]
    assert server.stored_bytes() > 880 * 8
