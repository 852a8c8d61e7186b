"""docs/guarantees.md names tests that exist, for each promise all that a reader needs to judge it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in TEXT.split("\n## ")[1:]}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_promise_says_what_keeps_it_when_it_fails_and_what_tries_to_break_it(heading: str) -> None:
    labels = re.findall(r"^\*\*([A-Z][a-z ]+)\.?\*\*", SECTIONS[heading], re.MULTILINE)
    assert labels == ["Promise", "Kept by", "Does not hold when", "Tests"]


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_test_that_is_named_exists(heading: str) -> None:
    named = re.findall(r"`(test/[\w/]+\.py)::(\w+)`", SECTIONS[heading])
    assert named
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"


def test_the_table_lists_every_promise() -> None:
    linked = re.findall(r"^\| \[.*?\]\(#([^)]+)\) \|", TEXT, re.MULTILINE)
    assert linked == [anchor(heading) for heading in SECTIONS]
