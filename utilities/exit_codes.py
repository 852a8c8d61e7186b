"""The exit codes by which the processes tell each other, and service managers, why they ended; pure."""

from __future__ import annotations

EXIT_FAILED = 1
"""A fault, or something that passes: started again."""
EXIT_CONFIGURATION = 2
"""The configuration is wrong: whoever starts it again gets the same."""
EXIT_CANNOT_BOOT = 78
"""Something that the process needs cannot be had (a port, a file): not started again at the start."""
