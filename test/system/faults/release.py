"""The source of the release before this one, taken from the project's own history, for upgrades."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "5821450"


@cache
def release_before() -> Path | None:
    """A folder with its source; None if the history is not there."""
    try:
        done = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode != 0:
        return None
    folder = Path(tempfile.mkdtemp(prefix="ec-release-"))
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # CPython before 3.11.4 has none
        archive.extractall(folder)
    return folder
