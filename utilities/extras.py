"""Optional packages, and how to install one that is missing.

Each is an extra in pyproject.toml, except PJSUA2, which is installed wherever it has a wheel, as the
reference meter sends with it. A test compares this table with pyproject.toml.
"""

from __future__ import annotations

from importlib.util import find_spec

_INSTALL = {
    "cassandra": "the Cassandra driver: pip install --require-hashes -r requirements-cassandra.txt",
    "matplotlib": "matplotlib: pip install 'matplotlib>=3.10'",
    "pjsua2": "PJSUA2: pip install --require-hashes -r requirements.txt, with CPython 3.11 or 3.12 "
    "on Linux x86-64 or macOS arm64, for which pjsua2-python has wheels",
    "pyarrow": "pyarrow: pip install 'pyarrow>=21'",
    "soundfile": "soundfile: pip install 'soundfile>=0.13'",
}


def install_text(module: str) -> str:
    """The package that provides ``module`` and how to install it, as a text to follow the word "needs"."""
    return _INSTALL[module]


def is_missing(module: str) -> bool:
    """Whether ``module`` is not installed; does not import it."""
    return find_spec(module) is None
