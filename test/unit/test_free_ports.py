"""Test processes that run side by side are given different ports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from free_ports import free_ports

_TEST_FOLDER = Path(__file__).resolve().parents[1]
_ASK_AND_STAY = (
    "import sys; from free_ports import free_ports; print(*free_ports(50), flush=True); sys.stdin.read()"
)


def test_processes_are_never_given_the_same_port() -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", _ASK_AND_STAY],
            cwd=_TEST_FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    given = free_ports(50)
    for other in others:
        assert other.stdout is not None
        given += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate()
    assert len(given) == len(set(given)) == 200
