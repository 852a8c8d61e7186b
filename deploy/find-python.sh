#!/bin/sh
# Print the path of a Python that `make` can build its environment with.
#
# The demo and the tests run the reference meter, which sends with PJSUA2. pjsua2-python has wheels for
# CPython up to 3.12, on Linux x86-64 and on macOS with Apple silicon. Elsewhere it would have to be
# compiled, so this script says what is missing instead. (The server alone also runs with later Pythons.)
#
# Order: the interpreter that PYTHON names, then python3.12, python3.11 and python3 on the path, then
# one that uv knows or can install. Exit code 2 where there is none, with what to install on stderr.
set -u

fits() {
    "$1" -c '
import sys, sysconfig
fitting = (3, 11) <= sys.version_info[:2] <= (3, 12) and sys.implementation.name == "cpython"
sys.exit(not fitting)' 2>/dev/null
}

machine="${EC_MACHINE:-$(uname -s) $(uname -m)}"
case "$machine" in
    "Linux x86_64" | "Darwin arm64") ;;
    *)
        echo "the demo and the tests need pjsua2-python, which has no wheel for $machine, only for Linux x86_64" \
            "and macOS arm64; README.md, \"Platforms\", says what runs here" >&2
        exit 2
        ;;
esac

if [ -n "${PYTHON:-}" ]; then
    if fits "$PYTHON"; then
        command -v "$PYTHON"
        exit 0
    fi
    echo "PYTHON=$PYTHON is not CPython 3.11 or 3.12, which pjsua2-python needs" >&2
    exit 2
fi

for name in python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null 2>&1 && fits "$name"; then
        command -v "$name"
        exit 0
    fi
done

if command -v uv >/dev/null 2>&1; then
    found=$(uv python find 3.12 2>/dev/null) ||
        { uv python install 3.12 >&2 && found=$(uv python find 3.12); }
    if [ -n "${found:-}" ] && fits "$found"; then
        echo "$found"
        exit 0
    fi
fi

cat >&2 <<'MESSAGE'
The demo and the tests need CPython 3.11 or 3.12, and none was found. Install one, then run the command again:
  Debian 12      apt-get install python3.11 python3.11-venv
  Debian 13      apt-get install pipx && pipx install uv && pipx ensurepath   (uv then provides Python 3.12)
  Ubuntu 24.04   apt-get install python3.12 python3.12-venv
  Ubuntu 22.04   apt-get install python3.11 python3.11-venv
  Fedora         dnf install python3.12
  macOS          brew install python@3.12
Or name one that is installed elsewhere: make PYTHON=/path/to/python3.12 demo
The server alone also runs with Python 3.13: see README.md, "Run it".
MESSAGE
exit 2
