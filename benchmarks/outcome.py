"""The result of a benchmark: rows of figures, ratios over the rounds, and faults; as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two figures, one value per round; both were measured in the same round."""

    name: str
    rounds: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def verdict(self) -> str:
        """Whether the median reaches its target; "" if there is none."""
        if self.at_least is not None:
            return "reached" if self.median >= self.at_least else "NOT REACHED"
        if self.at_most is not None:
            return "reached" if self.median <= self.at_most else "NOT REACHED"
        return ""

    @property
    def wanted(self) -> str:
        """The target in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a benchmark. A fault, such as a lost batch, makes the whole run fail."""

    title: str
    rows: Sequence[Mapping[str, Value]]
    """Rows of medians, all with the same columns."""
    ratios: Sequence[Ratio] = ()
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()
    rounds: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    """All measurements, one per round and competitor, for the JSON file."""

    def as_dict(self) -> dict[str, object]:
        """The result for JSON."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "ratios": [
                {"name": r.name, "median": r.median, "rounds": r.rounds, "wanted": r.wanted,
                 "verdict": r.verdict}
                for r in self.ratios
            ],
            "faults": list(self.faults),
            "notes": list(self.notes),
            "rounds": [dict(one) for one in self.rounds],
        }  # fmt: skip


def medians(of: Sequence[Mapping[str, Value]], first: str) -> list[dict[str, Value]]:
    """One row for each value of the column ``first``, in order of appearance: medians of its numbers."""
    groups: dict[Value, list[Mapping[str, Value]]] = {}
    for row in of:
        groups.setdefault(row[first], []).append(row)
    return [{name: _median([row[name] for row in rows]) for name in rows[0]} for rows in groups.values()]


def _median(values: Sequence[Value]) -> Value:
    numbers = [value for value in values if isinstance(value, int | float)]
    return statistics.median(numbers) if len(numbers) == len(values) else values[0]


def show(outcome: Outcome, console: Console) -> None:
    """Print it as a table."""
    table = Table(title=outcome.title, title_justify="left", title_style="bold")
    for i, name in enumerate(outcome.rows[0] if outcome.rows else ()):
        table.add_column(name, justify="right" if i else "left")
    for row in outcome.rows:
        table.add_row(*map(_shown, row.values()))
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", style="dim", highlight=False)
    for fault in outcome.faults:
        console.print(f"  FAILED: {fault}", style="bold red", highlight=False)


def show_ratios(ratios: Sequence[Ratio], console: Console) -> None:
    """All ratios of a run in one table."""
    table = Table(title="Ratios: medians over the rounds", title_justify="left", title_style="bold")
    for i, name in enumerate(("ratio", "median", "from", "to", "rounds", "wanted", "")):
        table.add_column(name, justify="right" if 0 < i < 5 else "left", overflow="fold")
    for r in ratios:
        spread = f"{min(r.rounds):.2f}", f"{max(r.rounds):.2f}"
        table.add_row(r.name, f"{r.median:.2f}", *spread, str(len(r.rounds)), r.wanted, r.verdict)
    console.print(table)


def _shown(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
