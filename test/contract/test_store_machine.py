"""Each engine does what the memory engine does, whatever happens and in whatever order."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from contract.store_machine import FileMachine, StoreMachine
from hypothesis import HealthCheck, Phase, settings

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from utilities.utc import ec_date

_TOOL = """
import json, sqlite3, sys
for line in sys.stdin:
    path, statement, copy = json.loads(line)
    connection = sqlite3.connect(path, isolation_level=None)
    if statement:
        connection.execute(statement)
    if copy:
        other = sqlite3.connect(copy)
        connection.backup(other)
        other.close()
    connection.close()
    print(flush=True)
"""


class ForeignTool:
    """Another program that stays, because a process for each statement takes too long."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def use(self, path: Path, statement: str = "", copy_to: Path | None = None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), statement, str(copy_to or "")]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "the other program failed"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class MemoryMachine(StoreMachine):
    """The memory engine against itself: what the rules assume."""

    def open(self, *, read_only: bool = False) -> Store:
        if not hasattr(self, "store"):
            self.store = MemoryStore()
        return self.store


class SqliteMachine(FileMachine):
    """SQLite, with everything that other programs do to files."""

    tool: ForeignTool

    def open(self, *, read_only: bool = False) -> Store:
        if not hasattr(self, "folder"):
            self.folder = Path(tempfile.mkdtemp(prefix="ec-machine-"))
            self.copies = 0
        return SqliteStore(self.folder, read_only=read_only, synchronous="off")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def path(self, day: int) -> Path:
        return self.folder / f"ec-{ec_date(day)}.sqlite"

    def copy_exists(self, day: int) -> bool:
        return self.path(day).exists()

    def copy_day(self, day: int) -> Path | None:
        if not self.path(day).exists():
            return None
        self.copies += 1
        copy = self.folder / f"copy-{self.copies}"
        self.tool.use(self.path(day), copy_to=copy)
        return copy

    def put_back(self, day: int, saved: object | None) -> None:
        for end in ("", "-wal", "-shm"):
            self.path(day).with_name(self.path(day).name + end).unlink(missing_ok=True)
        if isinstance(saved, Path):
            shutil.copy(saved, self.path(day))

    def by_hand(self, day: int, statement: str) -> None:
        self.tool.use(self.path(day), statement)


MACHINES = {"memory": MemoryMachine, "sqlite": SqliteMachine}


def run_machine(engine: str, examples: int, steps: int, *, shrink: bool = True) -> None:
    """Run one engine's machine; ``shrink``: what fails is made as short as it can be, which takes long."""
    machine = MACHINES[engine]
    SqliteMachine.tool = ForeignTool()
    case = machine.TestCase()
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, *([Phase.shrink] if shrink else [])),
        report_multiple_bugs=False,
        database=None,
    )
    try:
        case.runTest()
    finally:
        SqliteMachine.tool.close()


@pytest.mark.parametrize("engine", sorted(MACHINES))
def test_whatever_happens_an_engine_is_as_the_memory_engine(engine: str) -> None:
    run_machine(engine, examples=8, steps=30)


if __name__ == "__main__":
    run_machine(sys.argv[1], int(sys.argv[2]) // 100, 100, shrink="--shrink" in sys.argv)
