"""Exports a device's samples: ``python -m ec_server.export DEVICE --from T --to T`` (docs/export.md)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configuration.properties_reader import read_settings
from ec_server.export.files import Progress, write_files, write_stream
from ec_server.export.sample_formats import ENCODERS
from ec_server.export.stored_seconds import Span, check_span, parse_moment
from ec_server.storage.contract import Store
from ec_server.storage.engines import open_store, refuse_stored_file, why_no_storage
from utilities import utc
from utilities.command_line import EXIT_FAULT, EXIT_INTERRUPTED, device_id, new_file, output, run
from utilities.errors import EcServerError

EXIT_NOTHING = 1
_NAME = "ec_server.export"
_MOST_NAMED = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; returns the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    span = Span(asked.device, asked.start, asked.stop)
    try:
        check_span(span)
    except ValueError as error:
        parser.error(str(error))
    if asked.out is None and asked.format != "csv":
        parser.error(f"--format {asked.format} needs -o FILE; only csv goes to standard output")
    try:
        return _export(asked, span)
    except (EcServerError, OSError) as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
        return EXIT_FAULT
    except KeyboardInterrupt:
        print(f"{_NAME}: interrupted; no file was created", file=sys.stderr)
        return EXIT_INTERRUPTED


def _export(asked: argparse.Namespace, span: Span) -> int:
    encoder = ENCODERS[asked.format]()
    settings = read_settings(asked.config, os.environ)
    if why := why_no_storage(settings):
        print(f"{_NAME}: {why}", file=sys.stderr)
        return EXIT_NOTHING
    if asked.out is not None:
        refuse_stored_file(settings, asked.out)
    with open_store(settings, read_only=True) as store:
        if asked.out is None:
            samples = _to_stdout(store, span)
        else:
            with _progress_bar(span) as progress:
                samples = write_files(store, span, encoder, asked.out, progress)
        if samples:
            if asked.out is not None:
                print(f"{asked.out}: {samples:,} samples, described in {asked.out}.json", file=sys.stderr)
            return 0
        print(f"{_NAME}: {_nothing(store, span)}", file=sys.stderr)
    return EXIT_NOTHING


def _to_stdout(store: Store, span: Span) -> int:
    """The number of samples; where the reader has gone, it has had some."""
    with output():
        return write_stream(store, span, sys.stdout.buffer)
    return 1


def _nothing(store: Store, span: Span) -> str:
    known = [record.device_id for record in store.devices()]
    where = f"from {utc.second_text(span.start)} to {utc.second_text(span.stop)}"
    if span.device_id in known or store.earliest_minute(span.device_id) is not None:
        return f"nothing is stored of {span.device_id} {where}"
    names = ", ".join(known[:_MOST_NAMED]) + (", ..." if len(known) > _MOST_NAMED else "")
    return f"device {span.device_id} was never seen" + (f", only {names}" if known else "; no device was")


@contextmanager
def _progress_bar(span: Span) -> Iterator[Progress]:
    """A progress bar, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _second, _samples: None
        return
    from rich.console import Console  # noqa: PLC0415 (slow import, for terminals alone)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=span.stop - span.start)
        yield lambda second, samples: bar.update(
            task, completed=second + 1 - span.start, description=f"{samples:,} samples"
        )


def _moment(text: str) -> int:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_NAME}",
        description="Export a device's stored samples, from either storage engine, packed or not.",
        epilog="Exit codes: 0 exported, 1 nothing is stored there, 2 wrong arguments or configuration.",
    )
    add = parser.add_argument
    add("device", type=device_id, metavar="DEVICE", help="device id")
    add("--from", dest="start", required=True, type=_moment, metavar="T", help="YYYYMMDDhhmm[ss], UTC")
    add("--to", dest="stop", required=True, type=_moment, metavar="T", help="end of the range, not included")
    add("--format", choices=tuple(ENCODERS), default="csv", help="default: csv")
    add(
        "-o",
        dest="out",
        type=new_file,
        metavar="FILE",
        help="output file, with a report in FILE.json; default: CSV to standard output",
    )
    add("-c", dest="config", type=Path, metavar="FILE", help="the server's configuration file")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
