"""What a test needs and this machine lacks: skipped loudly, or failed where ``CI`` is set."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI, where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(program: str, package: str) -> str:
    """Path of a program of a Debian package."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        unavailable(f"{program} is missing: apt-get install {package}")
    return found
