"""Files that a program of the server creates are readable by its user only: 0600, folders 0700.

Called by each program before it creates anything. Where several programs run under one user, as the
launcher and its workers do, they can read each other's files. Files that exist keep their modes.
"""

from __future__ import annotations

import os

OTHERS = 0o077
"""The permission bits of group and others."""


def make_files_private() -> None:
    """From here on, nothing that this process and its children create is open to others."""
    os.umask(os.umask(OTHERS) | OTHERS)
