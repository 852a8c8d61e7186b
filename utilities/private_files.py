"""Makes files that the server's programs create readable by their user only: 0600, folders 0700.

Each program calls it before it creates anything. Programs under the same user, such as the launcher and its
workers, can read each other's files. Existing files keep their modes. What root creates for a server that
runs as another user belongs to that user.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

OTHERS = 0o077
"""The permission bits of the group and of others."""


def make_files_private() -> None:
    """Deny others access to everything that this process and its children create from now on."""
    os.umask(os.umask(OTHERS) | OTHERS)


def make_folder(folder: Path) -> None:
    """Where it is missing. It belongs to whom the folder above it belongs, also where root makes it."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    give_to_owner_of_folder(folder)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """In one step, readable by the owner of its folder. Raises OSError where that cannot be."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(values), "utf-8")
    give_to_owner_of_folder(new)
    new.replace(path)


def give_to_owner_of_folder(path: Path) -> None:
    """Where this is root, who may: else what root writes could not be read by the server's user."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)
