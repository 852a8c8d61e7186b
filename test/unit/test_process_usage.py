"""What a process uses is told with its children's part, and processor time never goes down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ec_server.status.process_usage import read_usage, read_usage_with_children

_CHILD = """
import sys, time
kept = bytearray(b"x" * (64 << 20))
while time.process_time() < 0.3: pass
print("busy", flush=True)
sys.stdin.read()
"""
_PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], stdin=subprocess.PIPE)
sys.stdin.readline()
child.communicate()
print("reaped", flush=True)
sys.stdin.read()
"""


def test_a_child_counts_while_it_lives_and_its_time_afterwards() -> None:
    command = [sys.executable, "-c", _PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        with_child, alone = read_usage_with_children(process.pid), read_usage(process.pid)
        process.stdin.write("end it\n")
        process.stdin.flush()
        assert process.stdout.readline() == "reaped\n"
        after = read_usage_with_children(process.pid)
        process.stdin.close()
    assert with_child is not None
    assert after is not None
    assert alone is not None
    assert with_child.resident_bytes > 64 << 20 > after.resident_bytes
    assert alone.resident_bytes < 64 << 20
    assert after.cpu_s >= with_child.cpu_s >= 0.3


def test_the_usage_of_a_process_that_has_ended_is_unknown(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for read in (read_usage, read_usage_with_children):
        assert read(process.pid) is None
        assert read(1, tmp_path) is None
