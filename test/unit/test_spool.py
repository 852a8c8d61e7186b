"""The spool: what waits on disk while the database is away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ec_server.ingest.spool import Drained, Spool
from ec_server.storage.merge import batch_of
from utilities.errors import PermanentStorageError, RetryableStorageError

NOON = 1_772_366_400


def group(number: int, size: int = 3) -> list:
    return [batch_of(f"meter-{number}", NOON + number, f"{i:06d},{number}.5") for i in range(size)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "receiver-0.sqlite"


def drained(spool: Spool) -> list[tuple[int, list]]:
    found = []
    while one := spool.peek():
        found.append((one.rows[0].inserted_us, [row.batch for row in one.rows]))
        spool.remove(one.token, Drained(len(one.rows), 0, 0, 0))
    return found


def test_groups_come_out_in_order_with_the_moment_they_were_given(path: Path) -> None:
    spool = Spool(path, 10_000_000)
    for number in range(5):
        spool.append(group(number), 1000 + number)
    assert (len(spool), spool.bytes > 0) == (15, True)
    assert drained(spool) == [(1000 + number, group(number)) for number in range(5)]
    assert (len(spool), spool.bytes, spool.peek()) == (0, 0, None)


def test_a_group_stays_until_it_is_removed_also_after_a_restart(path: Path) -> None:
    spool = Spool(path, 10_000_000)
    spool.append(group(1), 1)
    spool.append(group(2), 2)
    first = spool.peek()
    assert first is not None
    spool.remove(first.token, Drained(len(first.rows), 0, 0, 0))
    spool.close()
    again = Spool(path, 10_000_000)
    assert len(again) == 3
    assert drained(again) == [(2, group(2))]


def test_what_was_appended_outlives_a_kill(path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from ec_server.ingest.spool import Spool;"
        "from ec_server.storage.merge import batch_of;"
        "spool = Spool(Path(sys.argv[1]), 10**7);"
        "spool.append([batch_of('m', 1772366400, '000000,1')], 7);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", program, str(path)], cwd=root, timeout=30, check=False)
    assert died.returncode == -9
    assert drained(Spool(path, 10**7)) == [(7, [batch_of("m", NOON, "000000,1")])]


def test_a_full_spool_refuses_and_keeps_what_it_has(path: Path) -> None:
    spool = Spool(path, 600)
    spool.append(group(1), 1)
    with pytest.raises(RetryableStorageError, match=r"storage\.spool_mb"):
        spool.append(group(2, 100), 2)
    assert drained(spool) == [(1, group(1))]
    spool.append(group(3), 3)
    assert len(spool) == 3


def test_small_groups_leave_together_as_far_as_one_call_can_store_them(path: Path) -> None:
    spool = Spool(path, 10_000_000)
    tomorrow = batch_of("meter-1", NOON + 86_400, "000000,1")
    groups = [group(1, 2), group(2, 3), group(1, 1), group(3, 4), group(4, 1), [tomorrow], group(5, 1)]
    for inserted_us, one in enumerate(groups):
        spool.append(one, 1000 * inserted_us)
    found = []
    while waiting := spool.peek(5):
        found.append([(row.batch, row.inserted_us) for row in waiting.rows])
        assert [row.rank for row in waiting.rows] == sorted(row.rank for row in waiting.rows)
        spool.remove(waiting.token, Drained(len(waiting.rows), 0, 0, 0))
    moments = [[(batch, 1000 * i) for batch in one] for i, one in enumerate(groups)]
    assert found == [
        moments[0] + moments[1],  # the third group repeats a row of the first
        moments[2] + moments[3],  # five rows
        moments[4],  # the next is of another day
        moments[5],
        moments[6],
    ]
    assert (len(spool), spool.bytes) == (0, 0)


def test_a_poison_row_is_set_aside_and_does_not_block_the_rest(path: Path) -> None:
    spool = Spool(path, 10_000_000)
    spool.append(group(1), 1)
    spool.append(group(2), 2)
    first = spool.peek()
    assert first is not None
    spool.remove(first.token, Drained(2, 0, 1, 6), first.rows[1:2], "row too large")
    assert spool.last_drained == (first.token, Drained(2, 0, 1, 6))
    assert (len(spool), spool.set_aside_count) == (3, 1)
    assert drained(spool) == [(2, group(2))]
    spool.close()
    assert Spool(path, 10_000_000).set_aside_count == 1


def test_a_group_cannot_be_removed_twice(path: Path) -> None:
    spool = Spool(path, 10_000_000)
    spool.append(group(1), 1)
    spool.append(group(2), 2)
    first = spool.peek()
    assert first is not None
    spool.remove(first.token, Drained(len(first.rows), 0, 0, 0))
    with pytest.raises(KeyError):
        spool.remove(first.token, Drained(len(first.rows), 0, 0, 0))
    assert len(spool) == 3


def test_the_file_shrinks_when_everything_is_drained(path: Path) -> None:
    spool = Spool(path, 50_000_000)
    for number in range(200):
        spool.append(group(number, 100), number)
    drained(spool)
    assert path.stat().st_size < 100_000


def test_a_damaged_file_is_reported_and_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, whatever it is" * 100)
    with pytest.raises(PermanentStorageError, match=r"receiver-0\.sqlite"):
        Spool(path, 10_000_000)
    assert path.read_bytes().startswith(b"not a database")
