"""Every link in the documents leads to a file, and to a heading where it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]


def anchors(path: Path) -> set[str]:
    """What GitHub and others make of the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(doc: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", doc.read_text("utf-8")):
        name, _, heading = link.partition("#")
        target = doc.parent / name if name else doc
        if not link.startswith("http") and (
            not target.exists() or (heading and heading not in anchors(target))
        ):
            lost.append(link)
    assert lost == []
