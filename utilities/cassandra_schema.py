"""Which tables a keyspace must have, according to their CQL, and whether the existing ones match.

It uses the attributes of the driver's metadata objects, without importing the driver.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from utilities.errors import ConfigurationError

_LEVELED = "LeveledCompactionStrategy"


class Shape(NamedTuple):
    """The properties of a table that this program depends on."""

    name: str
    columns: frozenset[tuple[str, str]]
    """Name and CQL type."""
    partition_key: tuple[str, ...]
    clustering: tuple[str, ...]

    def is_grown_from(self, earlier: Shape) -> bool:
        """Whether ``earlier`` is the same table, perhaps without columns that were added since."""
        return (self.partition_key, self.clustering) == (earlier.partition_key, earlier.clustering) and (
            self.columns >= earlier.columns
        )


class Schema:
    """The tables of one keyspace."""

    def __init__(self, tables: str, keyspace: str) -> None:
        """``tables`` is CQL: CREATE TABLE IF NOT EXISTS, one column per line, comments after ``--``."""
        bare = re.sub(r"--.*", "", tables)
        listed = [statement.strip() for statement in bare.split(";") if statement.strip()]
        self._keyspace = keyspace
        self._wanted = [shape_of_cql(statement) for statement in listed]
        self._static = {
            (shape.name, column)
            for shape, statement in zip(self._wanted, listed)
            for column in re.findall(r"^\s+(\w+)\s+\w+ static\b", statement, re.MULTILINE)
        }
        self.statements = [qualified(statement, keyspace) for statement in listed]

    def keyspace_cql(self, replication: str) -> str:
        """CQL to create the keyspace; ``replication`` is ``3`` (in each data centre) or ``dc1:3,dc2:2``."""
        parts = [part.partition(":") for part in replication.replace(" ", "").split(",")]
        copies = {name: count for name, colon, count in parts if colon}
        options = copies or {"replication_factor": replication.strip()}
        listed = ", ".join(f"'{name}': {count}" for name, count in options.items())
        return (
            f'CREATE KEYSPACE IF NOT EXISTS "{self._keyspace}" '
            f"WITH replication = {{'class': 'NetworkTopologyStrategy', {listed}}}"
        )

    def missing(self, metadata: Any) -> list[str]:
        """Names of the tables that the cluster's keyspace lacks."""
        keyspace = metadata.keyspaces.get(self._keyspace)
        return [shape.name for shape in self._wanted if keyspace is None or shape.name not in keyspace.tables]

    def missing_columns(self, metadata: Any) -> list[str]:
        """The CQL that adds each column which a table of an earlier version lacks."""
        keyspace = metadata.keyspaces.get(self._keyspace)
        return [
            f'ALTER TABLE "{self._keyspace}".{wanted.name} ADD {name} {kind}'
            + (" static" if (wanted.name, name) in self._static else "")
            for wanted in self._wanted
            if keyspace is not None and (table := keyspace.tables.get(wanted.name)) is not None
            for name, kind in sorted(wanted.columns - shape_of_table(table).columns)
        ]

    def compaction_advice(self, metadata: Any) -> list[str]:
        """What the operator should change in tables that return the space of deleted rows too late."""
        keyspace = metadata.keyspaces[self._keyspace]
        return [
            f"{self._keyspace}.{shape.name} is compacted by time windows, which give no space of packed rows"
            f" back: ALTER TABLE {self._keyspace}.{shape.name} WITH compaction = {{'class': '{_LEVELED}'}}"
            for shape, statement in zip(self._wanted, self.statements)
            if _LEVELED in statement
            and "TimeWindow" in str(keyspace.tables[shape.name].options.get("compaction"))
        ]

    def refuse_other_shapes(self, metadata: Any) -> None:
        """Raise ConfigurationError if an existing table of the same name has another shape."""
        keyspace = metadata.keyspaces.get(self._keyspace)
        for wanted in self._wanted if keyspace is not None else ():
            table = keyspace.tables.get(wanted.name)
            if table is not None and not wanted.is_grown_from(found := shape_of_table(table)):
                raise ConfigurationError(
                    f"table {self._keyspace}.{wanted.name} has another shape: {_difference(wanted, found)}; "
                    "choose another cassandra.keyspace, or move that table's data away and drop it"
                )


def qualified(cql: str, keyspace: str) -> str:
    """The CQL with its table's name qualified by the keyspace."""
    return re.sub(r"\b(FROM|INTO|UPDATE|EXISTS) (ec_\w+)", rf'\1 "{keyspace}".\2', cql, count=1)


def shape_of_cql(statement: str) -> Shape:
    """The shape of the table that a CREATE TABLE statement creates."""
    head = re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?)\n\)", statement, re.DOTALL)
    if head is None:
        raise ValueError(f"not a CREATE TABLE of the form used here: {statement[:60]}")
    columns = re.findall(r"^\s+(\w+)\s+(text|int|bigint|timeuuid|blob)\b", head[2], re.MULTILINE)
    single = re.search(r"(\w+)\s+text PRIMARY KEY", head[2])
    keyed = re.search(r"PRIMARY KEY \(\(([^)]*)\)(?:, )?([^)]*)\)", head[2])
    partition = (single[1],) if single else tuple(keyed[1].split(", ")) if keyed else ()
    clustering = tuple(keyed[2].split(", ")) if keyed and keyed[2] else ()
    return Shape(head[1], frozenset(columns), partition, clustering)


def shape_of_table(table: Any) -> Shape:
    """The shape of a table as the driver describes it."""
    columns = frozenset((name, column.cql_type) for name, column in table.columns.items())
    partition = tuple(column.name for column in table.partition_key)
    return Shape(table.name, columns, partition, tuple(column.name for column in table.clustering_key))


def _difference(wanted: Shape, found: Shape) -> str:
    if (wanted.partition_key, wanted.clustering) != (found.partition_key, found.clustering):
        keys = (found.partition_key, found.clustering, wanted.partition_key, wanted.clustering)
        return "its key is ({}), {}, not ({}), {}".format(*(", ".join(key) for key in keys))
    columns = [f"{name} {kind}" for name, kind in sorted(wanted.columns ^ found.columns)]
    return f"differing in the columns {', '.join(columns)}"
