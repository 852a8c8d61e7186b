"""Imports go one way; the table below is the one in docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What everything stands on; the rest of utilities/ are adapters to what is outside.
FOUNDATION = {
    f"utilities.{name}" for name in ("errors", "exit_codes", "utc", "model", "log", "private_files", "extras")
}
BELOW_ALL = {"utilities", "configuration", "ec_server.account", "ec_server.packing"}

# What each part may import of ours, besides itself and BELOW_ALL.
MAY_IMPORT: dict[str, set[str]] = {
    "configuration": FOUNDATION,
    "utilities": set(),
    "ec_server/account": {"utilities"},
    "ec_server/packing": {"utilities"},
    "ec_server/storage": {"ec_server.ingest.spool"},
    "ec_server/ingest": {"ec_server.storage", "ec_server.supervision.restart_policy"},
    "ec_server/synchronization": {"ec_server.storage", "ec_server.ingest.message_body"},
    "ec_server/export": {"ec_server.storage"},
    "ec_server/status": {"ec_server.storage", "ec_server.export"},
    "ec_server/supervision": {"ec_server.storage"},
}
LOWEST = ("configuration", "utilities", "ec_server/account", "ec_server/packing")
OWN = ("ec_server", "configuration", "utilities", "reference_client", "reference_cluster", "benchmarks")


@cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, places: set[str]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in places)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_one_way(part: str) -> None:
    allowed = MAY_IMPORT[part] | BELOW_ALL | {part.replace("/", ".")}
    if part in LOWEST:
        allowed = MAY_IMPORT[part] | {part.replace("/", ".")}
    parents = {"ec_server", "utilities"} | {m.rsplit(".", 1)[0] for m in allowed if "." in m}
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / part).rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] in OWN and not is_within(module, allowed) and module not in parents
    }
    assert wrong == set()


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("pjsua2", {"utilities/sip_client.py", "utilities/sip_library.py"}),
        (
            "cassandra",
            {f"utilities/cassandra_{name}.py" for name in ("util", "batch", "errors", "policies", "tables")},
        ),
        ("apsw", {"ec_server", "reference_client"}),
        ("pcodec", {"ec_server/packing/numeric_file.py"}),
    ],
)
def test_a_library_is_imported_where_the_architecture_says(library: str, home: set[str]) -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in OWN[:4]
        for path in (ROOT / folder).rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] == library
    }
    assert {f for f in found if not any(f == h or f.startswith(h + "/") for h in home)} == set()


def test_no_program_of_the_server_uses_the_sip_library() -> None:
    programs = [ROOT / f"{name}.py" for name in ("ec_server_main", "data_receiver", "sync_server")]
    own = [*programs, *(ROOT / "ec_server").rglob("*.py"), *(ROOT / "configuration").rglob("*.py")]
    library = {"utilities.sip_client", "utilities.sip_library", "pjsua2"}
    assert [str(path) for path in own if library & set(imports(path))] == []
    for path in (ROOT / "utilities").glob("*.py"):
        if path.stem not in {"sip_client", "sip_library"}:
            assert not library & set(imports(path)), path


def test_no_file_has_a_name_that_says_nothing() -> None:
    drawers = {"helper", "helpers", "common", "misc", "manager", "base"}
    files = [p for folder in OWN for p in (ROOT / folder).rglob("*.py")]
    assert [str(p) for p in files if drawers & set(p.stem.split("_"))] == []


def test_every_module_says_its_job() -> None:
    files = [p for folder in OWN for p in (ROOT / folder).rglob("*.py")]
    assert [str(p) for p in files if not ast.get_docstring(ast.parse(p.read_text("utf-8")))] == []
