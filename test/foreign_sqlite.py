"""Somebody else's SQLite tool: the interpreter's own library, in a process of its own.

Never in this process: file locks belong to the process, so two SQLite libraries in one do not see
each other's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_RUN = """
import json, sqlite3, sys
path, statement = json.load(sys.stdin)
connection = sqlite3.connect(path, isolation_level=None)
cursor = connection.execute(statement)
names = [column[0] for column in cursor.description or ()]
json.dump([dict(zip(names, row)) for row in cursor.fetchall()], sys.stdout)
"""


def by_hand(path: Path, statement: str) -> list[dict[str, Any]]:
    """Run one statement on a file; its rows as dictionaries."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps([str(path), statement]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
