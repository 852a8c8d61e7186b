"""A disk that does not read for a while is not mistaken for files that are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from contract.store_suite import NOON, run_of
from foreign_sqlite import by_hand
from needs import need

from ec_server.storage import disk_check
from ec_server.storage.disk_check import DiskCheck, why_unreadable
from ec_server.storage.sqlite_files import DayFiles
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import DamagedFileError, RetryableStorageError
from utilities.model import Batch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 40


def batches(second: int) -> list[Batch]:
    return [run_of("m", second, us * 1000) for us in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with SqliteStore(tmp_path) as store:
        for second in range(NOON, NOON + SECONDS):
            store.ingest(batches(second))
    return tmp_path


def read_by_an_unsteady_disk(folder: Path, share: float) -> None:
    """A program that reads and writes over and over while this share of its reads fails with EIO."""
    fails = f"enable_random name=posix/io/rw/pread,probability={share},failinfo=5"
    fails = fails if share < 1 else "enable name=posix/io/rw/pread,failinfo=5"
    subprocess.run(
        [need("fiu-run", "fiu-utils"), "-x", "-f", "", "-c", fails, sys.executable, __file__, str(folder)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'test'}", "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1])
def test_reads_that_fail_now_and_then_set_no_file_aside(folder: Path, share: float) -> None:
    read_by_an_unsteady_disk(folder, share)
    assert not list(folder.glob("*damaged*"))
    with SqliteStore(folder) as store:
        assert store.health().damage == ()
        for second in range(NOON, NOON + SECONDS):
            assert store.second_text("m", second) == ";".join(b.values for b in batches(second))
    assert by_hand(folder / "ec-20260301.sqlite", "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_a_file_that_cannot_be_read_for_long_counts_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found_damaged(check: DiskCheck) -> None:
        with check.around(tmp_path / "a.sqlite"):
            raise DamagedFileError("malformed")

    check = DiskCheck()
    monkeypatch.setattr(disk_check, "why_unreadable", lambda path, longest_s: "Input/output error")
    with pytest.raises(RetryableStorageError, match="Input/output error"):
        found_damaged(check)
    monkeypatch.setattr(disk_check, "PATIENCE_S", 0.0)
    with pytest.raises(DamagedFileError):
        found_damaged(check)


def test_a_file_is_checked_together_with_its_log(folder: Path) -> None:
    path = folder / "ec-20260301.sqlite"
    assert why_unreadable(path) == ""
    Path(f"{path}-wal").unlink(missing_ok=True)
    Path(f"{path}-wal").mkdir()  # as good as unreadable
    assert "directory" in why_unreadable(path)


def test_a_file_that_another_process_sets_aside_meanwhile_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = DayFiles.open

    def gone(_files: DayFiles, _day: int) -> object:
        monkeypatch.setattr(DayFiles, "open", opens)
        raise FileNotFoundError(2, "No such file or directory")

    with SqliteStore(folder) as store:
        monkeypatch.setattr(DayFiles, "open", gone)
        with pytest.raises(RetryableStorageError, match=r"ec-20260301.*No such file"):
            store.second_text("m", NOON)
        assert store.second_text("m", NOON)


def test_damage_that_a_reader_found_is_reported_until_the_file_is_replaced(folder: Path) -> None:
    path = folder / "ec-20260301.sqlite"
    whole = path.read_bytes()
    with SqliteStore(folder, read_only=True) as reader:
        path.write_bytes(b"not a database" * 1000)
        assert reader.devices() == []
        assert "ec-20260301.sqlite" in reader.health().damage[0]
        path.write_bytes(whole)
        assert reader.health().damage == ()


def main(folder: Path) -> None:
    for round_number in range(60):
        try:
            with SqliteStore(folder) as store:
                store.ingest(batches(NOON + round_number % SECONDS))
                store.second_digests("m", NOON)
                store.devices()
            with SqliteStore(folder, read_only=True) as reader:
                reader.devices()
                assert reader.health().damage == ()
        except RetryableStorageError:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
