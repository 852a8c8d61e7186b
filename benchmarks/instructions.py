"""Instructions per message, by library: a figure that is independent of other programs on the machine.

Callgrind counts the instructions that programs execute outside the kernel, which slows them down about fifty
times. After a warm-up the counters are reset; the figure is what a plan of messages adds.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.competitors import TEXT_FROM_EIGHT, in_words, not_answered, offer, renewed
from benchmarks.effort import Effort
from benchmarks.measured_program import PYTHON, BenchmarkError, MeasuredProgram, answers, free_port
from benchmarks.outcome import Outcome, Ratio, Value
from benchmarks.stored_rows import count_rows
from benchmarks.storing_program import this_server
from reference_client.load_generator import run_load

Say = Callable[[str], None]

_WARM_UP, _MESSAGES = 1_500, 4_000
_OWNERS = (
    ("SIP stack", ("pjsua2",)),
    ("SQLite", ("apsw",)),
    ("numpy", ("numpy", "libscipy_openblas", "libgfortran")),
    ("MD5", ("libcrypto", "_hashlib", "_md5")),
    ("C library", ("/libc.", "/libc-", "/libm.", "/libpthread", "/ld-linux")),
    ("Python", ("python",)),
)
"""The owner of code, and parts of its library's path; the first match counts."""


def run(effort: Effort, say: Say) -> Outcome:
    """Instructions per message, by owner of the code: the bare callback and this server."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise BenchmarkError("valgrind is missing: apt-get install valgrind")
    say("the bare callback under callgrind")
    bare = _of_bare_callback(effort, valgrind)
    say("this server under callgrind")
    sip, writer, faults = _of_this_server(effort, valgrind)
    owners = [owner for owner, _ in (*_OWNERS, ("other", ())) if (bare + sip + writer)[owner]]
    rows: list[dict[str, Value]] = [
        {
            "code of": owner,
            "bare callback": bare[owner] / 1000,
            "this server, SIP": sip[owner] / 1000,
            "this server, writer": writer[owner] / 1000,
        }
        for owner in [*owners, "all"]
    ]
    return Outcome(
        "Thousand instructions per message outside the kernel: TCP, text of 44 samples, 8 devices",
        rows,
        [
            Ratio("instructions per message, bare callback / SIP process", (bare["all"] / sip["all"],)),
            Ratio("instructions per message, bare callback / all of this server",
                  (bare["all"] / (sip + writer)["all"],)),
        ],
        faults,
    )  # fmt: skip


def _of_bare_callback(effort: Effort, valgrind: str) -> Counter[str]:
    port = free_port()
    with effort.fresh_folder() as folder:
        command = [*_under(valgrind, folder), PYTHON, "-m", "benchmarks.bare_callback", str(port)]
        program = MeasuredProgram("the bare callback", command, folder / "program.log")
        with program:
            program.wait_until(lambda: "ready" in program.said() and answers(port), 120)
            run_load(renewed(TEXT_FROM_EIGHT, port=port, messages=_WARM_UP))
            _control("--zero", program)
            run_load(renewed(TEXT_FROM_EIGHT, port=port, messages=_MESSAGES))
            _control("--dump", program)
        return _by_owner(folder.glob("callgrind.*.1"))


def _of_this_server(effort: Effort, valgrind: str) -> tuple[Counter[str], Counter[str], tuple[str, ...]]:
    """Counts of its first process, and of all others; transactions may grow as large as at full speed."""
    name = "this server"
    with effort.fresh_folder() as folder:
        under = _under(valgrind, folder)
        program, port = this_server(folder, options={"ingest.commit_ms": "5000"}, under=under)
        with program:
            _, warm_sent, _ = offer(program, renewed(TEXT_FROM_EIGHT, port=port, messages=_WARM_UP))
            _control("--zero", program)
            report, sent, _ = offer(program, renewed(TEXT_FROM_EIGHT, port=port, messages=_MESSAGES))
            _control("--dump", program)
        rows = count_rows(program.storage, [warm_sent, sent])
        of_first = folder / f"callgrind.{program.process.pid}.1"
        others = [path for path in folder.glob("callgrind.*.1") if path != of_first]
        faults = (*not_answered(name, report), *in_words(name, rows.faults()))
        return _by_owner([of_first]), _by_owner(others), faults


def _under(valgrind: str, folder: Path) -> list[str]:
    return [valgrind, "-q", "--tool=callgrind", "--trace-children=yes",
            f"--callgrind-out-file={folder}/callgrind.%p"]  # fmt: skip


def _control(what: str, program: MeasuredProgram) -> None:
    """Tell callgrind, in each of the program's processes, to reset its counters, or to write them."""
    for pid in program.pids():
        done = subprocess.run(
            ["callgrind_control", what, str(pid)], capture_output=True, text=True, check=False
        )
        if "OK" not in done.stdout:
            raise BenchmarkError(f"callgrind_control {what}: {done.stdout}{done.stderr}")


def _by_owner(profiles: Iterable[Path]) -> Counter[str]:
    """Instructions per message by owner of the code, over all profiles, with the sum as ``all``."""
    found: Counter[str] = Counter()
    for profile in profiles:
        for library, cost in self_costs(profile.read_text("utf-8", "replace").splitlines()).items():
            found[_owner(library)] += cost
    found["all"] = sum(found.values())
    return Counter({owner: cost // _MESSAGES for owner, cost in found.items()})


def _owner(library: str) -> str:
    return next((owner for owner, parts in _OWNERS if any(part in library for part in parts)), "other")


def self_costs(lines: Sequence[str]) -> Mapping[str, int]:
    """Library to the number of instructions executed in its own code, from a callgrind profile."""
    names: dict[str, str] = {}
    costs: Counter[str] = Counter()
    library, of_a_call = "", False
    for line in lines:
        key, _, value = line.partition("=")
        if key in ("ob", "cob"):
            number, _, name = value.partition(" ")
            names.setdefault(number, name)
            library = names[number] if key == "ob" else library
        elif key == "calls":
            of_a_call = True
        elif line[:1] in "+-*0123456789" and line:
            if not of_a_call:
                costs[library] += int(line.rpartition(" ")[2])
            of_a_call = False
    return costs
