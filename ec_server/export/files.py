"""Writes an export: a file of samples, and a JSON file that describes them.

Rules:

1. Both files get their names only when they are complete; until then they are ``.part`` files, which are
   removed if anything goes wrong.
2. Memory use does not depend on the range: gaps and minutes are written as they are found.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TextIO

from ec_server.export.coverage import SECOND_US
from ec_server.export.extract import ExportedMinute, Notes, Report, extract
from ec_server.export.sample_formats import CsvEncoder, Encoder, NpyEncoder
from ec_server.export.stored_seconds import Span
from ec_server.storage.contract import Store
from utilities import utc

Progress = Callable[[int, int], None]
"""Called with ``(second, samples so far)`` after each second."""


def write_stream(store: Store, span: Span, out: BinaryIO) -> int:
    """Write CSV to a stream; returns the number of samples. Writes nothing if there are none."""
    encoder, report = CsvEncoder(), Report()
    for second, text in extract(store, span, None, report):
        if report.samples == text.count(";") + 1:
            out.write(encoder.begin())
        out.write(encoder.add(second, text))
    out.flush()
    return report.samples


def write_files(store: Store, span: Span, encoder: Encoder, path: Path, progress: Progress) -> int:
    """Write the samples to ``path``, the report to ``path`` + ``.json``; returns the number of samples.

    If there are none, no file is created or changed. Raises OSError if a file cannot be written.
    """
    beside = path.with_name(f"{path.name}.json")
    parts = [one.with_name(f".{one.name}.{os.getpid()}.part") for one in (path, beside)]
    report = Report()
    try:
        with parts[0].open("wb") as out, parts[1].open("w", encoding="utf-8") as described:
            _write_samples(store, span, encoder, report, out, described, progress)
            for file in (out, described):
                file.flush()
                os.fsync(file.fileno())
        if report.samples:
            parts[0].replace(path)
            parts[1].replace(beside)
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return report.samples


def _write_samples(
    store: Store,
    span: Span,
    encoder: Encoder,
    report: Report,
    out: BinaryIO,
    described: TextIO,
    progress: Progress,
) -> None:
    head = {"device": span.device_id, "range": _range(span), "format": _name_of(encoder)}
    described.write(f'{json.dumps(head)[:-1]}, "gaps": [')
    out.write(encoder.begin())
    with TemporaryFile("w+", encoding="utf-8") as aside:
        gaps, minutes = _Items(described), _Items(aside)
        notes = Notes(lambda *gap: gaps.write(gap), lambda one: minutes.write(_minute_object(one)))
        for second, text in extract(store, span, notes, report):
            out.write(encoder.add(second, text))
            progress(second, report.samples)
        out.write(encoder.finish())
        if isinstance(encoder, NpyEncoder):
            out.seek(0)
            out.write(encoder.header())
        described.write(f'], "samples": {report.samples}, "minutes": [')
        aside.seek(0)
        shutil.copyfileobj(aside, described)
    described.write("]}\n")


class _Items:
    """The items of a JSON array, one by one."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._first = file, True

    def write(self, item: object) -> None:
        self._file.write(f"{'' if self._first else ', '}{json.dumps(item)}")
        self._first = False


def _range(span: Span) -> dict[str, object]:
    return {
        "from": utc.second_text(span.start),
        "to": utc.second_text(span.stop),
        "span": [span.start * SECOND_US, span.stop * SECOND_US],
    }


def _minute_object(one: ExportedMinute) -> dict[str, object]:
    return {
        "minute": utc.minute_text(one.minute),
        "state": one.state,
        "digest": {"count": one.digest.count, "md5": one.digest.md5} if one.digest else None,
    }


def _name_of(encoder: Encoder) -> str:
    return type(encoder).__name__.removesuffix("Encoder").lower()
