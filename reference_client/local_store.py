"""A meter's recordings on its own disk, against which the synchronization compares the server's data.

Two files per hour, both append-only:

    2026030112.values   the canonical text of each second, compressed with zlib, one after the other
    2026030112.index    one line per second: epoch second, samples, MD5 of the text, offset, length

Rules:

1. A second is recorded as a whole, before any of it is sent: first its values, then its line. A second
   without a line was not recorded, so a meter that dies in between loses that second and nothing else.
2. A second that is recorded again (the clock was set back) replaces the earlier one: the later line counts.
3. One thread records, another one may read. They share only files, so reading never delays recording.
4. At most ``keep_hours`` hours are kept. The oldest is removed first, but never the one being recorded. Hours
   are counted, not compared with the clock, so that nothing is lost if the clock leaps.
5. ``through`` follows the clock: everything after the last recorded second is unfinished, even if it was
   recorded before. So the server asks again for what is recorded again.
6. Memory use does not depend on the amount recorded.

Times are UTC epoch seconds; digests and canonical text are those of docs/protocol.md.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from utilities import checksum_util
from utilities.model import Digest
from utilities.utc import HOUR_S, MINUTE_S, ec_time, minute_of, parse_minute, second_text

_log = logging.getLogger(__name__)
_CACHED_HOURS = 3


def store_folder(root: Path, device_id: str) -> Path:
    """The folder of a device's store under ``root``; safe for ids such as ``..``."""
    return root / f"{device_id}.meter"


@dataclass(frozen=True, slots=True)
class RecordedSecond:
    """One line of an index: a second's digest, and the place of its compressed text."""

    digest: Digest
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Hour:
    version: tuple[int, int, int]
    seconds: dict[int, RecordedSecond]


class LocalStore:
    """The seconds that one meter recorded; see the module's rules."""

    def __init__(self, folder: Path, *, keep_hours: int = 24, durable: bool = True) -> None:
        """Open the store in ``folder``, which is created if it is missing.

        ``durable``: a recorded second survives a power failure, not only the death of the process. This
        costs two disk flushes per second.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._keep_hours, self._durable = keep_hours, durable
        self._through: int | None = None
        self._recorder: _Recorder | None = None
        self._hours: dict[int, _Hour] = {}

    # --- recording: one thread ----------------------------------------------------------------

    def begin(self, second: int) -> None:
        """Begin recording at ``second``: from its minute on, nothing is finished.

        Raises BlockingIOError if another process is recording into the same store.
        """
        if self._recorder is None:
            self._recorder = _Recorder(self.folder, self._durable)
        self._through = minute_of(second)

    def record(self, second: int, text: str) -> Digest | None:
        """Record a complete second of canonical ``text``. Returns its digest, None if it has no samples.

        Raises OSError if writing fails; the second is then not recorded, but earlier ones are.
        """
        if self._recorder is None:
            self.begin(second)
        assert self._recorder is not None
        counted = checksum_util.second_digest(text)
        digest = None if counted is None else Digest(*counted)
        if digest is not None and self._recorder.append(second, digest, text):
            self._remove_oldest(_hour_of(second))
        self._through = minute_of(second + 1)
        return digest

    def finish(self) -> None:
        """End recording: the last minute, even if short, is finished."""
        if self._recorder is not None:
            self._recorder.close()
        self._recorder, self._through = None, None

    def forget(self) -> None:
        """Lose everything recorded so far (an injected fault); recording can continue."""
        if self._recorder is not None:
            self._recorder.close_hour()
        for hour in self._hours_on_disk():
            self._remove(hour)

    # --- answering: one thread ----------------------------------------------------------------

    def oldest(self) -> int | None:
        """The first minute with anything recorded; None if the store is empty."""
        for hour in self._hours_on_disk():
            seconds = self._hour(hour)
            if seconds:
                return minute_of(min(seconds))
        return None

    def through(self) -> int | None:
        """The minute being recorded, which may still change; None if nothing is being recorded."""
        return self._through

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        """``(minute, digest)`` of the non-empty minutes in ``[start, stop)``, ascending."""
        digests = []
        for hour in self._hours_on_disk():
            if hour + HOUR_S > start and hour < stop:
                digests += [
                    (minute, digest)
                    for minute, digest in _minute_digests(self._hour(hour))
                    if start <= minute < stop
                ]
        return digests

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        """``(second, digest)`` of the minute's non-empty seconds, ascending."""
        seconds = self._hour(_hour_of(minute))
        return [(s, seconds[s].digest) for s in range(minute, minute + MINUTE_S) if s in seconds]

    def digest(self, second: int) -> Digest | None:
        """The digest of a second; None if it was not recorded."""
        recorded = self._hour(_hour_of(second)).get(second)
        return recorded.digest if recorded else None

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        """The digest of a second, and its canonical text compressed with zlib, as it is on disk."""
        recorded = self._hour(_hour_of(second)).get(second)
        if recorded is None:
            return None
        try:
            with _values_path(self.folder, _hour_of(second)).open("rb") as file:
                return recorded.digest, os.pread(file.fileno(), recorded.length, recorded.offset)
        except FileNotFoundError:
            return None

    def text(self, second: int) -> str:
        """The canonical text of a second; "" if it was not recorded or cannot be read."""
        packed = self.packed(second)
        if packed is None:
            return ""
        try:
            return zlib.decompress(packed[1]).decode("ascii")
        except (zlib.error, UnicodeDecodeError) as error:
            _log.error("%s: second %d is damaged: %s", self.folder, second, error)
            return ""

    def samples(self, second: int, ranges: Sequence[tuple[int, int]]) -> str:
        """The canonical text of the second's samples in half-open, ascending ranges of microseconds."""
        return ";".join(samples_within(self.text(second), ranges))

    def close(self) -> None:
        """Stop recording and close every file."""
        self.finish()

    # --- files ----------------------------------------------------------------------------------

    def _hours_on_disk(self) -> list[int]:
        names = sorted(path.stem for path in self.folder.glob("*.index"))
        return [parse_minute(name + "00") for name in names]

    def _hour(self, hour: int) -> dict[int, RecordedSecond]:
        """The index of an hour, parsed again only if the file has changed; a few hours stay in memory."""
        path = _index_path(self.folder, hour)
        try:
            found = path.stat()
        except FileNotFoundError:
            self._hours.pop(hour, None)
            return {}
        version = (found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._hours.pop(hour, None)
        if known is None or known.version != version:
            known = _Hour(version, _read_index(path, _size(_values_path(self.folder, hour))))
        self._hours[hour] = known
        while len(self._hours) > _CACHED_HOURS:
            del self._hours[next(iter(self._hours))]
        return known.seconds

    def _remove_oldest(self, recording: int) -> None:
        others = [hour for hour in self._hours_on_disk() if hour != recording]
        for hour in others[: len(others) + 1 - self._keep_hours]:
            self._remove(hour)

    def _remove(self, hour: int) -> None:
        _index_path(self.folder, hour).unlink(missing_ok=True)
        _values_path(self.folder, hour).unlink(missing_ok=True)


class _Recorder:
    """The writing side: holds the folder's lock and the two open files of an hour."""

    def __init__(self, folder: Path, durable: bool) -> None:
        self._folder, self._durable = folder, durable
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise
        self._hour: int | None = None
        self._values = self._index = -1

    def append(self, second: int, digest: Digest, text: str) -> bool:
        """Write the values, then their line. True if this second opened the files of another hour."""
        other_hour = self._hour != _hour_of(second)
        if other_hour:
            self._open_hour(_hour_of(second))
        offset = os.lseek(self._values, 0, os.SEEK_END)
        line_at = os.lseek(self._index, 0, os.SEEK_END)
        packed = zlib.compress(text.encode("ascii"), 1)
        line = f"{second} {digest.count} {digest.md5} {offset} {len(packed)}\n"
        try:
            self._write(self._values, packed)
            self._write(self._index, line.encode("ascii"))
        except OSError:
            os.ftruncate(self._index, line_at)
            os.ftruncate(self._values, offset)
            raise
        return other_hour

    def close_hour(self) -> None:
        if self._hour is not None:
            os.close(self._values)
            os.close(self._index)
            self._hour = None

    def close(self) -> None:
        self.close_hour()
        os.close(self._lock)

    def _open_hour(self, hour: int) -> None:
        self.close_hour()
        flags = os.O_RDWR | os.O_CREAT
        self._values = os.open(_values_path(self._folder, hour), flags, 0o644)
        self._index = os.open(_index_path(self._folder, hour), flags, 0o644)
        self._hour = hour
        # Remove an incomplete line that a process left when it died.
        written = _index_path(self._folder, hour).read_bytes()
        os.ftruncate(self._index, written.rfind(b"\n") + 1)

    def _write(self, descriptor: int, data: bytes) -> None:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        if self._durable:
            os.fdatasync(descriptor)


def _hour_of(second: int) -> int:
    return second - second % HOUR_S


def _index_path(folder: Path, hour: int) -> Path:
    return folder / f"{second_text(hour)[:10]}.index"


def _values_path(folder: Path, hour: int) -> Path:
    return folder / f"{second_text(hour)[:10]}.values"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_index(path: Path, values_size: int) -> dict[int, RecordedSecond]:
    """The complete lines whose values exist, by second; the last line of a second wins."""
    try:
        lines = path.read_text("ascii").split("\n")[:-1]
    except FileNotFoundError:
        return {}
    seconds = {}
    for line in lines:
        second, count, md5, offset, length = line.split()
        if int(offset) + int(length) <= values_size:
            seconds[int(second)] = RecordedSecond(Digest(int(count), md5), int(offset), int(length))
    return seconds


def _minute_digests(seconds: dict[int, RecordedSecond]) -> Iterator[tuple[int, Digest]]:
    by_minute: dict[int, list[int]] = {}
    for second in sorted(seconds):
        by_minute.setdefault(minute_of(second), []).append(second)
    for minute, members in by_minute.items():
        lines = [(ec_time(s), seconds[s].digest.count, seconds[s].digest.md5) for s in members]
        counted = checksum_util.minute_digest(lines)
        if counted is not None:
            yield minute, Digest(*counted)


def samples_within(text: str, ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    """The samples of canonical text that are in ascending, half-open ranges; one pass over both."""
    remaining = iter(ranges)
    bounds = next(remaining, None)
    for sample in text.split(";") if text else ():
        microsecond = int(sample[:6])
        while bounds is not None and microsecond >= bounds[1]:
            bounds = next(remaining, None)
        if bounds is None:
            return
        if microsecond >= bounds[0]:
            yield sample
