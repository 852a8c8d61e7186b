"""The CQL of every table, with the compaction strategy that suits whether rows are packed."""

from __future__ import annotations

from pathlib import Path
from string import Template

_SCHEMA = Path(__file__).with_name("schema") / "cassandra.cql"
_BY_WINDOW = (
    "{{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS',"
    " 'compaction_window_size': {hours}}}"
)
_BY_LEVEL = "{'class': 'LeveledCompactionStrategy'}"


def tables_cql(retention_days: int, *, packs: bool) -> str:
    """The CQL of every table. Leveled compaction returns the space of packed rows; time windows do not."""
    hours = _window_hours(retention_days)
    by_window = _BY_WINDOW.format(hours=hours)
    cql = Template(_SCHEMA.read_text("utf-8"))
    return cql.substitute(of_rows=_BY_LEVEL if packs else by_window, of_blocks=by_window)


def _window_hours(retention_days: int) -> int:
    """Hours of one window of the compaction: a day, or about a thirtieth of a short retention."""
    return min(24, max(1, retention_days * 24 // 30)) if retention_days else 24
