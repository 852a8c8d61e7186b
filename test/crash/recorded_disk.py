"""Everything that SQLite and the store do to the files of one folder, in the order in which they do it.

A VFS on top of SQLite's own notes every write, truncation, sync and deletion; renames and deletions by the
store itself (damage set aside, retention) are noted as they pass through pathlib. The shared memory of a
WAL (``-shm``) is not recorded: SQLite builds it again after a crash.

A file is known by a number of its own, because names change hands: a day file that was set aside keeps its
number, the one that is made in its place gets another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw

_VFS = "recorded"


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: int
    with_folder: bool
    """Whether the folder is synced too: SQLite does so with the first sync of a new journal or WAL."""


@dataclass(frozen=True, slots=True)
class Link:
    """A name begins to stand for a file."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Unlink:
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Noted:
    """No operation: what the workload says about this moment."""

    what: object


Operation = Write | Truncate | Sync | Link | Unlink | Rename | Noted


class Recording:
    """The operations on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[Operation] = []
        self.names: dict[str, int] = {}
        self._files = 0
        self._folder_not_synced: set[int] = set()

    def note(self, what: object) -> None:
        self.operations.append(Noted(what))

    def opened(self, path: str, *, is_log: bool) -> int:
        """The number of the file that a path stands for, from now on where it is new."""
        name = Path(path).name
        if name not in self.names:
            self._files += 1
            self.names[name] = self._files
            self.operations.append(Link(name, self._files))
            if is_log:
                self._folder_not_synced.add(self._files)
        return self.names[name]

    def synced(self, file: int) -> None:
        self.operations.append(Sync(file, file in self._folder_not_synced))
        self._folder_not_synced.discard(file)

    def unlinked(self, path: str) -> None:
        name = Path(path).name
        if self.names.pop(name, None) is not None:
            self.operations.append(Unlink(name))

    def renamed(self, old: str, new: str) -> None:
        file = self.names.pop(Path(old).name, None)
        if file is not None:
            self.names[Path(new).name] = file
            self.operations.append(Rename(Path(old).name, Path(new).name))

    def put_back(self, path: Path, content: bytes) -> None:
        """A complete file takes the place of this one, for good, as when a backup is restored with care."""
        new = path.with_name("restored")
        new.write_bytes(content)
        number = self.opened(str(new), is_log=True)
        self.operations.append(Write(number, 0, content))
        self.synced(number)
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        new.rename(path)
        self.operations.append(Sync(number, True))

    def written_by_hand(self, path: Path, at: int, data: bytes) -> None:
        """Change a file's bytes, for good, as a failing disk does."""
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
        number = self.names[path.name]
        self.operations += [Write(number, at, data), Sync(number, False)]


@contextmanager
def recorded(folder: Path) -> Iterator[Recording]:
    """While it lasts, all of this process's SQLite files go through the recording VFS; one folder's count."""
    recording = Recording(folder)
    vfs = _RecordingVfs(recording)
    unlink, rename = Path.unlink, Path.rename

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.parent == folder:
            recording.unlinked(str(path))

    def noted_rename(path: Path, target: Any) -> Path:
        result = rename(path, target)
        if path.parent == folder:
            recording.renamed(str(path), str(target))
        return result

    try:
        with patch.object(Path, "unlink", noted_unlink), patch.object(Path, "rename", noted_rename):
            yield recording
    finally:
        apsw.set_default_vfs("unix")
        vfs.unregister()


class _RecordingVfs(apsw.VFS):
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        super().__init__(_VFS, "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 (apsw's name)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or Path(path).parent != self._recording.folder:
            return apsw.VFSFile("unix", name, flags)
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL))
        return _RecordedFile(self._recording, name, flags, path, is_log=is_log)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802
        super().xDelete(name, sync_folder)
        self._recording.unlinked(name)


class _RecordedFile(apsw.VFSFile):
    def __init__(self, recording: Recording, name: Any, flags: list[int], path: str, *, is_log: bool) -> None:
        super().__init__("unix", name, flags)
        self._recording = recording
        self._number = recording.opened(path, is_log=is_log)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recording.operations.append(Write(self._number, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._recording.operations.append(Truncate(self._number, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recording.synced(self._number)
