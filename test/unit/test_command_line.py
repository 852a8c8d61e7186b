"""Commands under a shell: closed and full streams, readers that go, signals, arguments that are no text."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from utilities.command_line import device_id, new_file, run, say

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def into(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts a file, or nothing, in the place of the standard output."""
    opened: list[Any] = []

    def put(target: Any) -> None:
        stream = None if target is None else open(target, "w", encoding="ascii")  # noqa: PTH123, SIM115
        opened.append(stream)
        monkeypatch.setattr(sys, "stdout", stream)

    yield put
    for stream in opened:
        if stream is not None:
            stream.close()


def a_reader_that_has_gone() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def says(text: str, code: int) -> Callable[[], int]:
    def command() -> int:
        say(text)
        return code

    return command


def test_a_closed_output_takes_everything(into: Callable[[Any], None]) -> None:
    into(None)
    assert run(says("well", 1)) == 1


def test_a_reader_that_has_gone_changes_no_exit_code(into: Callable[[Any], None]) -> None:
    into(a_reader_that_has_gone())
    assert run(says("needs attention", 1)) == 1


def test_a_full_disk_is_exit_2_and_says_so(into: Callable[[Any], None], capsys: Any) -> None:
    into("/dev/full")
    assert run(says("well", 0)) == 2
    assert capsys.readouterr().err == "the output cannot be written: No space left on device\n"


def test_what_the_terminal_has_no_character_for_is_written_as_an_escape(
    into: Callable[[Any], None], tmp_path: Path
) -> None:
    into(tmp_path / "out")
    assert run(says("5 µs", 0)) == 0
    assert (tmp_path / "out").read_text() == "5 \\xb5s\n"


def test_ctrl_c_is_exit_130_without_a_traceback(capsys: Any) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert run(command) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_sigterm_lets_a_command_remove_what_it_has_begun() -> None:
    removed = []

    def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            removed.append(True)
        return 0

    with pytest.raises(SystemExit) as end:
        run(command)
    assert (end.value.code, removed) == (143, [True])


def test_an_id_that_is_no_text_is_one_that_no_device_has() -> None:
    assert device_id("meter-1") == "meter-1"
    assert device_id("zähler") == "zähler"
    assert device_id(os.fsdecode(b"meter-\xff")).encode() == "meter-\ufffd".encode()


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "earlier").touch()
    assert new_file(str(tmp_path / "earlier")) == tmp_path / "earlier"
    assert new_file(str(tmp_path / "none")) == tmp_path / "none"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a file that can be replaced"):
            new_file(str(path))


@pytest.mark.parametrize(
    "program",
    [
        "ec_server_main.py",
        "sync_server.py",
        "test/test.py",
        "ec_server/export/__main__.py",
        *(f"ec_server/storage/{name}.py" for name in ("move_data", "shell", "unpack")),
        "reference_client/validate.py",
    ],
)
def test_each_command_runs_by_these_rules(program: str) -> None:
    text = (ROOT / program).read_text("utf-8")
    assert re.search(r"\brun\((main|partial)", text)
    assert not re.search(r"^ *print\((?!.*file=)[^\n]*\)$", text, re.M), "its results are for say()"
