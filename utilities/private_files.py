"""Makes files that the server's programs create readable by their user only: 0600, folders 0700.

Each program calls it before it creates anything. Programs under the same user, such as the launcher and its
workers, can read each other's files. Existing files keep their modes.
"""

from __future__ import annotations

import os

OTHERS = 0o077
"""The permission bits of the group and of others."""


def make_files_private() -> None:
    """Deny others access to everything that this process and its children create from now on."""
    os.umask(os.umask(OTHERS) | OTHERS)
