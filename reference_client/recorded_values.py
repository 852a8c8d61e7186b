"""Reads recordings made by other programs: ``.npy``, ``.wav``, ``.flac`` and CSV, some values at a time.

| file | values | samples per second |
|---|---|---|
| ``.npy`` | a one-dimensional array of numbers, or an export's structured array (its ``value``) | ``rate`` |
| ``.wav``, ``.flac`` | the first channel, -1 to 1 as usual for sound (hence a scale) | from the file |
| ``.csv`` | the last column; a header is skipped | from a first column of times, else ``rate`` |
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from utilities import extras

Floats = npt.NDArray[np.float32]


class Values(Protocol):
    """The values of a recording, by index."""

    rate: int
    """Values per second."""
    count: int

    def read(self, first: int, stop: int) -> Floats:
        """The values ``[first, stop)``, which must all exist."""
        ...


def open_values(path: Path, rate: int) -> Values:
    """Open the recording at ``path``; ``rate`` is used if the file does not contain its own.

    Raises OSError if it cannot be read, ValueError if it is not a recording.
    """
    kinds: dict[str, Callable[[Path, int], Values]] = {
        ".npy": _Array,
        ".wav": _Sound,
        ".flac": _Sound,
        ".csv": _Table,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is not a {', '.join(kinds)} file")
    values = kind(path, rate)
    if not values.count:
        raise ValueError(f"{path} holds no samples")
    return values


class _Array:
    """A NumPy file, memory-mapped."""

    def __init__(self, path: Path, rate: int) -> None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is not a NumPy file: {error}") from error
        if isinstance(array, np.ndarray) and array.dtype.names and "value" in array.dtype.names:
            array = array["value"]
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "fiu":
            raise ValueError(f"{path} is not a one-dimensional .npy array of numbers")
        self._array, self.rate, self.count = array, rate, len(array)

    def read(self, first: int, stop: int) -> Floats:
        return np.array(self._array[first:stop], np.float32)


class _Sound:
    """A sound file; needs the package soundfile (the extra ``recordings``)."""

    def __init__(self, path: Path, _rate: int) -> None:
        try:
            import soundfile  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ValueError(f"{path}: .wav and .flac need {extras.install_text('soundfile')}") from error
        try:
            self._file: Any = soundfile.SoundFile(str(path))
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is not a sound file: {error}") from error
        self.rate, self.count = int(self._file.samplerate), int(self._file.frames)

    def read(self, first: int, stop: int) -> Floats:
        self._file.seek(first)
        values: Floats = self._file.read(stop - first, dtype="float32", always_2d=True)[:, 0]
        return values


class _Table:
    """A CSV file, read completely into memory, as text is not suited to hours of samples."""

    def __init__(self, path: Path, rate: int) -> None:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if rows and not _is_number(rows[0][-1]):
            rows = rows[1:]
        try:
            self._values = np.array([row[-1] for row in rows], np.float32)
        except ValueError as error:
            raise ValueError(f"{path}: not every value in the last column is a number: {error}") from error
        self.rate, self.count = _rate_of(path, [row[0] for row in rows], rate), len(rows)

    def read(self, first: int, stop: int) -> Floats:
        return self._values[first:stop]


def _rate_of(path: Path, first_column: list[str], rate: int) -> int:
    """The rate of a first column with times as in an export; else ``rate``."""
    if len(first_column) < 2 or "T" not in first_column[0]:
        return rate
    try:
        begin, second, end = (
            datetime.fromisoformat(text).timestamp() for text in (*first_column[:2], first_column[-1])
        )
    except ValueError as error:
        raise ValueError(
            f"{path}: not every value in the first column is an ISO-8601 time: {error}"
        ) from error
    interval_s, mean_s = second - begin, (end - begin) / (len(first_column) - 1)
    if end <= begin or abs(mean_s - interval_s) > interval_s / 10:
        raise ValueError(f"{path}: its times have gaps; a recording must not have any")
    return round(1 / mean_s)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
