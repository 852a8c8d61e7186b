"""Every clause of the oracle catches a bug that was put into a copy of the server on purpose."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from system.faults.plan import SQLITE, Fault, MeterPlan, Plan
from system.faults.run import run
from system.faults.subject import ROOT

SOURCE = (
    "ec_server",
    "configuration",
    "utilities",
    "ec_server_main.py",
    "data_receiver.py",
    "sync_server.py",
)
METERS = (MeterPlan("tcp", binary=False), MeterPlan("tcp", binary=True))
NO_SPACE = Fault("no-space", "writer", 0.5, 4.0, 0.5)


@dataclass(frozen=True, slots=True)
class Bug:
    """A change of one file, the faults under which it shows, and the clause that must catch it."""

    clause: str
    what: str
    file: str
    old: str
    new: str
    faults: tuple[Fault, ...] = (Fault("kill", "status", 2.5, 0.0, 0.5),)
    meanwhile: bool = False
    """Whether rounds go on during the load."""


BUGS = (
    Bug(
        "sent",
        "a digit of stored values is changed",
        "ec_server/storage/sqlite_row_writes.py",
        "                b.values,\n                b.count,",
        '                b.values.replace(",4", ",5"),\n                b.count,',
        meanwhile=True,
    ),
    Bug(
        "equal",
        "what differs is not fetched, and called proven",
        "ec_server/synchronization/minute_repair.py",
        "    return [\n        (second, there[second]) for second in sorted(there) if",
        "    return [\n        (second, there[second]) for second in () if",
        (Fault("day-removed-live", "", 2.0, 0.0, 0.0),),
    ),
    Bug(
        "answered",
        "the last batch of a commit is counted and not written",
        "ec_server/ingest/committer.py",
        "            result = store.ingest(step.batches, CommitMark(self._worker, self._sequence))\n",
        "            fewer = step.batches[:-1] or step.batches\n"
        "            result = store.ingest(fewer, CommitMark(self._worker, self._sequence))\n"
        "            result = type(result)((*result.changed, True)[: len(step.batches)], result.opened)\n",
    ),
    Bug(
        "account",
        "a duplicate too many is counted with each commit",
        "ec_server/ingest/committer.py",
        '"duplicate": len(changed) - stored,',
        '"duplicate": len(changed) - stored + 1,',
    ),
    Bug(
        "counters",
        "a receiver that takes over begins at nothing stored",
        "data_receiver.py",
        '        self._page.set_state("starting")\n',
        '        self._page.set_state("starting")\n'
        '        self._page.apply({"stored": -self._page.figures()["stored"]})\n',
        (Fault("kill", "receiver", 1.5, 0.0, 0.5),),
    ),
    Bug(
        "health",
        "a writer's trouble is not told",
        "ec_server/ingest/writer_process.py",
        "        return self._ring.trouble\n",
        '        return ""\n',
        (NO_SPACE,),
    ),
    Bug(
        "health",
        "a trouble that is over stays",
        "ec_server/ingest/troubles.py",
        "            self._texts[cause] = text\n",
        "            self._texts[cause] = text or self._texts[cause]\n",
        (NO_SPACE,),
    ),
    Bug(
        "proven",
        "a minute of which samples are missing is called proven",
        "ec_server/synchronization/minute_repair.py",
        "    return [\n        (second, there[second]) for second in sorted(there) if",
        "    return [\n        (second, there[second]) for second in () if",
        (Fault("cut-often", "sip", 0.3, 4.0, 0.1),),
        meanwhile=True,
    ),
    Bug(
        "verified",
        "a meter is told of a day less than is settled",
        "ec_server/synchronization/round.py",
        "    verified = Verified(min(task.start, settled_to), settled_to, *counts)",
        "    verified = Verified(min(task.start, settled_to), settled_to - 86_400, *counts)",
    ),
    Bug(
        "verified",
        "a meter is told that minutes are verified which it still records",
        "ec_server/synchronization/round_state.py",
        "            self.stop = min(self.stop, through)",
        "            self.stop = max(self.stop, through)",
        meanwhile=True,
    ),
    Bug(
        "exit",
        "a receiver ends with another code",
        "data_receiver.py",
        "        return 0\n\n\ndef _s",
        "        return 3\n\n\ndef _s",
    ),
    Bug(
        "restart",
        "what a crash left behind stops the next start",
        "ec_server/supervision/former_run.py",
        '            if page.state()[0] != "dead":\n',
        '            if page.state()[0] != "dead":\n                raise SystemExit(2)\n',
        (Fault("crash", "", 1.0, 0.0, 0.5),),
    ),
    Bug(
        "health",
        "read errors pass for damage",
        "ec_server/storage/disk_check.py",
        "        elif now_s",
        "        elif False and now_s",
        (Fault("some-errors", "sync", 0.5, 4.0, 0.5), Fault("some-errors", "writer", 0.6, 4.0, 0.5)),
        meanwhile=True,
    ),
    Bug(
        "files",
        "a page of a day file is overwritten at the end",
        "ec_server/storage/sqlite_day.py",
        "\n        self.db.close()\n",
        "\n        self.db.close()\n"
        "        if not self.read_only:\n"
        "            with self.path.open('r+b') as file:\n"
        "                file.seek(4096 * 3)\n"
        "                file.write(bytes(4096))\n",
    ),
    Bug(
        "log",
        "a round does not expect the database to fail",
        "ec_server/synchronization/device_rounds.py",
        "            except StorageError as error:",
        "            except KeyError as error:",
        (Fault("write-error-sync", "sync", 0.5, 3.0, 0.5), Fault("read-error", "sync", 0.6, 3.0, 0.5)),
        meanwhile=True,
    ),
)


def with_bug(bug: Bug, folder: Path) -> Path:
    """A copy of the server's source with the bug in it."""
    folder.mkdir()
    for name in SOURCE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    text = (folder / bug.file).read_text("utf-8")
    assert text.count(bug.old) == 1, f"{bug.file} has changed: put the bug elsewhere"
    (folder / bug.file).write_text(text.replace(bug.old, bug.new), "utf-8")
    return folder


def plan_for(bug: Bug) -> Plan:
    return Plan(0, SQLITE, 1, "normal", False, bug.meanwhile, False, METERS, bug.faults)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.clause}: {bug.what}")
def test_a_bug_on_purpose_is_caught_by_its_clause(tmp_path: Path, bug: Bug) -> None:
    outcome = run(plan_for(bug), tmp_path / "run", root=with_bug(bug, tmp_path / "source"))
    assert outcome.violation is not None
    assert outcome.violation.clause == bug.clause, outcome.violation


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_without_a_bug_the_same_faults_violate_nothing(tmp_path: Path) -> None:
    for number, bug in enumerate(BUGS):
        outcome = run(plan_for(bug), tmp_path / str(number))
        assert outcome.violation is None, (bug.what, outcome.violation)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.clause}: {bug.what}")
def test_the_line_that_a_bug_changes_is_there(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text("utf-8").count(bug.old) == 1
