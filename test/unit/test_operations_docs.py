"""The log messages that docs/operations.md explains are those that the programs write."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOG = (ROOT / "docs/operations.md").read_text("utf-8").partition("## The log")[2].partition("\n## ")[0]
EXPLAINED = re.findall(r"^\| `([^`]+)` \|", LOG, re.M)
PROGRAMS = [*ROOT.glob("*.py"), *ROOT.glob("ec_server/**/*.py"), *ROOT.glob("utilities/*.py")]


def texts() -> str:
    """Every text of the programs, a blank for each value that is put into it."""
    found = []
    for path in PROGRAMS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else " " for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[.\d]*[sdfgr]", " ", node.value))
    return "\n".join(found)


WRITTEN = re.sub(r" +", " ", texts())


def fixed_part(line: str) -> str:
    """The longest part of an example without a value: a number, a signal, a path, quoted text."""
    parts = re.split(r"\.\.\.|'[^']*'|\[[^\]]*\]|\S*\d\S*|SIG\w+|[:;()]|\bdata\b", line)
    return max((part.strip(" ,") for part in parts), key=len)


def test_there_are_messages_to_check() -> None:
    assert len(EXPLAINED) > 15


@pytest.mark.parametrize("line", EXPLAINED)
def test_a_message_that_the_document_explains_is_written_somewhere(line: str) -> None:
    assert fixed_part(line) in WRITTEN, fixed_part(line)
