"""Fuzz the targets with atheris: ``make fuzz``, or ``python test/fuzz [--seconds N] [TARGET ...]``.

Each target runs for so many seconds, in a process of its own, from its corpus. What breaks one is written
to ``fuzz-TARGET-...`` in the project's folder; put it into ``test/fuzz/corpus/TARGET/`` with the repair,
so that the suite always runs it. Exit code 1 if a target broke.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(sorted(folder.name for folder in CORPUS.iterdir()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what reads strangers' bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="(default: 1)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.inside:
        return _fuzz(given.targets[0], rest)
    unknown = set(given.targets) - set(NAMES)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return max(_run(name, given.seconds, given.seed) for name in given.targets or NAMES)


def _run(name: str, seconds: int, seed: int) -> int:
    """One target in a process of its own; what it finds new goes to a folder that is thrown away."""
    print(f"--- {name}: {seconds} s", flush=True)
    with tempfile.TemporaryDirectory() as new:
        options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix=fuzz-{name}-"]
        command = [sys.executable, str(ROOT / "test" / "fuzz"), name, "--inside", *options, "-max_len=4000"]
        command += ["-print_final_stats=1", new, str(CORPUS / name)]
        return 1 if subprocess.run(command, cwd=ROOT, check=False).returncode else 0


def _fuzz(name: str, options: list[str]) -> int:
    import atheris

    sys.path[:0] = [str(ROOT), str(ROOT / "test")]
    with atheris.instrument_imports(include=["ec_server", "utilities"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
