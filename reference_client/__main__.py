"""Runs meters: ``python -m reference_client --devices 3`` (docs/meter.md).

The meters are distributed over several processes. This one prints one line per second about them, and ends
them all on Ctrl-C, on SIGTERM, or when they are done. Exit code 0 if all ended well and, if messages were
due, at least one was acknowledged; 1 otherwise; 2 for wrong arguments, or if PJSUA2, which sends the
messages, is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reference_client.command_line import plans_of
from utilities import extras


def main(arguments: Sequence[str]) -> int:
    """Run the meters that the command line describes; returns the exit code."""
    plans = plans_of(arguments)
    if extras.is_missing("pjsua2"):
        print(f"the reference meter needs {extras.install_text('pjsua2')}", file=sys.stderr)
        return 2
    from reference_client.fleet import Fleet  # noqa: PLC0415 (needs pjsua2)

    return Fleet(plans).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
