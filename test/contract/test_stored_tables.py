"""unpack and shell show the original's two tables, whether rows are packed or not."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from contract.store_suite import NOON, check, run_of
from foreign_sqlite import by_hand

from ec_server.export import __main__ as export
from ec_server.storage import move_data, shell, unpack
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState
from utilities.utc import DAY_S

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("ec_consumption", "ec_checksum")
ALL = {table: f"SELECT * FROM {table} ORDER BY device_id, ec_date, ec_time, 4, 5" for table in TABLES}


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "server.properties"
    path.write_text(f"[Storage]\nstorage.path={tmp_path / 'data'}\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "data") as store:
        for device_id in ("m", "other"):
            for second in (NOON, NOON + 1, NOON + 90, NOON + DAY_S):
                store.ingest([run_of(device_id, second, 0), run_of(device_id, second, 1000)])
            store.minute_digests(device_id, NOON, NOON + 2 * DAY_S)
        check(store, "m", NOON, MinuteState.PROVEN)
        yield store


def stored(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    return {table: by_hand(tmp_path / "data" / "ec-20260301.sqlite", query) for table, query in ALL.items()}


def pack_some(store: SqliteStore) -> None:
    store.pack_minute("m", NOON)
    store.pack_minute("other", NOON + 60)


class TestUnpack:
    def test_a_days_file_holds_what_the_tables_held_before_packing(
        self, store: SqliteStore, tmp_path: Path, configuration: Path, capsys
    ) -> None:
        before = stored(tmp_path)
        pack_some(store)
        out = tmp_path / "day.sqlite"
        assert unpack.main(["-d", "20260301", "-o", str(out), "-c", str(configuration)]) == 0
        assert {table: by_hand(out, query) for table, query in ALL.items()} == before
        assert capsys.readouterr().out == f"{out}: 12 rows\n"
        names = by_hand(out, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        assert [one["name"] for one in names] == ["ec_checksum", "ec_consumption"]

    def test_one_device_alone(self, store: SqliteStore, tmp_path: Path, configuration: Path) -> None:
        out = tmp_path / "day.sqlite"
        out.write_text("of before")
        assert unpack.main(["-d", "20260301", "-o", str(out), "--device", "m", "-c", str(configuration)]) == 0
        assert by_hand(out, "SELECT DISTINCT device_id FROM ec_consumption") == [{"device_id": "m"}]

    def test_a_file_of_the_server_s_own_is_not_replaced(
        self, store: SqliteStore, tmp_path: Path, configuration: Path, capsys
    ) -> None:
        before = stored(tmp_path)
        arguments = ["-d", "20260301", "--device", "m", "-c", str(configuration)]
        out = tmp_path / "data" / "ec-20260301.sqlite"
        assert unpack.main([*arguments, "-o", str(out)]) == 2
        assert "storage.path" in capsys.readouterr().err
        assert stored(tmp_path) == before

    def test_nothing_stored_makes_no_file(
        self, store: SqliteStore, tmp_path: Path, configuration: Path, capsys
    ) -> None:
        out = tmp_path / "day.sqlite"
        arguments = ["-o", str(out), "-c", str(configuration), "-d"]
        assert unpack.main([*arguments, "20250101"]) == 1
        assert unpack.main([*arguments, "20260301", "--device", "nobody"]) == 1
        assert "nothing is stored of nobody on 20260301" in capsys.readouterr().err
        assert list(tmp_path.glob("day*")) == []

    def test_an_invalid_day_is_refused(self, capsys) -> None:
        with pytest.raises(SystemExit) as end:
            unpack.main(["-d", "20260230", "-o", "x"])
        assert end.value.code == 2
        assert "not a day" in capsys.readouterr().err


class TestShell:
    def test_the_tables_show_everything_packed_or_not(self, store: SqliteStore, tmp_path: Path) -> None:
        before = stored(tmp_path)
        pack_some(store)
        database = shell.connect(store)
        for table, query in ALL.items():
            found = database.execute(query.replace("ORDER", "WHERE ec_date = '20260301' ORDER"))
            names = [column[0] for column in found.get_description()]
            assert [dict(zip(names, row)) for row in found] == before[table]
        assert database.execute("SELECT count(*) FROM ec_consumption").get == 16

    @pytest.mark.parametrize(
        ("condition", "rows"),
        [
            ("device_id = 'm' AND ec_date = '20260301'", 6),
            ("device_id = 'm' AND ec_date = 20260301", 6),
            ("device_id = 'nobody'", 0),
            ("ec_date > '20260301'", 4),
            ("ec_date < '20260302' AND ec_time >= '120001'", 8),
            ("ec_time BETWEEN '120001' AND '120129'", 4),
            ("ec_time = '120130' AND device_id = 'm'", 2),
            ("ec_time > '1200' AND ec_time < '1201' AND ec_date = '20260301'", 8),
            ("ec_time = '12'", 0),
            ("device_id IN ('m', 'other') AND ec_time IN ('120000', '120001') AND ec_date = '20260301'", 8),
            ("device_id > 'm'", 8),
            ("start_us = '001000'", 8),
            ("values_count = 4 AND ec_time <= '120000'", 8),
            ("ec_time > 5", 0),
            ("device_id = 'M' COLLATE NOCASE AND ec_date = '20260301'", 6),
            ("ec_date = '20260301 ' COLLATE RTRIM", 12),
            ("(device_id, ec_date, ec_time) IN (SELECT 'm', ec_date, ec_time FROM ec_checksum)", 8),
        ],
    )
    def test_conditions_select_what_they_say(self, store: SqliteStore, condition: str, rows: int) -> None:
        pack_some(store)
        query = f"SELECT count(*) FROM ec_consumption WHERE {condition}"
        assert shell.connect(store).execute(query).get == rows

    def test_only_what_the_conditions_leave_is_read(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, int, int]] = []
        rows = store.rows
        monkeypatch.setattr(store, "rows", lambda *span: asked.append(span) or rows(*span))
        query = "SELECT * FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_time >= ?"
        shell.connect(store).execute(query, ("m", "20260301", "120001")).fetchall()
        assert asked == [("m", NOON + 1, NOON + DAY_S // 2)]

    def test_the_originals_queries_run(self, store: SqliteStore, configuration: Path) -> None:
        pack_some(store)
        statements = [
            "SELECT * FROM ec_consumption LIMIT 10;",
            "SELECT device_id, ec_date, ec_time, start_us, end_us, ec_consumption_values, values_count,"
            " values_checksum, insert_time AS insert_timestamp FROM ec_consumption"
            " WHERE device_id = 'm' AND ec_date = '20260301';",
            "SELECT count(*) FROM ec_checksum LIMIT 10;",
            "SELECT * FROM ec_checksum LIMIT 10;",
        ]
        found = self.run("-c", str(configuration), *statements)
        assert found.returncode == 0, found.stderr
        assert len(found.stdout.splitlines()) == 10 + 6 + 1 + 10
        piped = self.run("-c", str(configuration), typed=".mode csv\nSELECT count(*) FROM ec_consumption;\n")
        assert piped.stdout.split() == ["16"]

    def test_the_tables_cannot_be_written(self, store: SqliteStore, configuration: Path) -> None:
        with pytest.raises(apsw.Error, match="may not be modified"):
            shell.connect(store).execute("DELETE FROM ec_consumption")
        found = self.run("-c", str(configuration), "SELECT nix FROM ec_consumption")
        assert found.returncode == 1
        assert "no such column: nix" in found.stderr

    @pytest.mark.parametrize("wrong", ["SELECT nix FROM ec_consumption;", ".nosuch"])
    def test_what_fails_is_exit_1_also_where_the_next_statement_does_not(
        self, store: SqliteStore, configuration: Path, wrong: str, capsys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["-c", str(configuration)]
        assert shell.main([*arguments, wrong]) == 1
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{wrong}\nSELECT 5;\n"))
        assert shell.main(arguments) == 1
        told = capsys.readouterr()
        assert told.out == "5\n"
        assert told.err.count("no such column: nix" if "nix" in wrong else 'Unknown command "nosuch"') == 2

    @staticmethod
    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ec_server.storage.shell", *arguments],
            cwd=ROOT,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def test_no_output_takes_the_place_of_a_file_of_the_database(
    store: SqliteStore, configuration: Path, tmp_path: Path, capsys
) -> None:
    for name in ("ec-20260301.sqlite", "progress.db", "ec-20260301.sqlite-wal"):
        file = tmp_path / "data" / "x" / ".." / name
        (tmp_path / "data" / "x").mkdir(exist_ok=True)
        before = file.stat().st_ino
        common = ["-c", str(configuration), "-o", str(file)]
        assert unpack.main(["-d", "20260301", *common]) == 2
        assert export.main(["m", "--from", "202603010000", "--to", "202603020000", *common]) == 2
        assert capsys.readouterr().err.count("is a file of the database in storage.path") == 2
        assert file.stat().st_ino == before


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (lambda path: shell.main(["-c", path, "SELECT 1"]), 2),
        (lambda path: unpack.main(["-c", path, "-d", "20260301", "-o", "day.sqlite"]), 1),
        (lambda path: move_data.main(["-c", path, "--from", "sqlite", "--to", "cassandra"]), 2),
    ],
    ids=["shell", "unpack", "move_data"],
)
def test_a_storage_path_that_does_not_exist_is_named(
    configuration: Path, tmp_path: Path, command: Callable[[str], int], code: int, capsys
) -> None:
    assert command(str(configuration)) == code
    assert f"storage.path '{tmp_path / 'data'}' does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [configuration]
