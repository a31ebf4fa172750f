"""SQLAlchemy Core statements on the driver's own cursor: what a grant needs to take 1 ms.

A statement is compiled once per dialect. Executing it through SQLAlchemy costs ten times as much
as SQLite itself needs, and a grant executes ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.sql.expression import Executable


class Cursor(Protocol):
    """What sqlite3's and psycopg's cursors have in common."""

    def execute(self, sql: str, values: Any) -> Any: ...

    def executemany(self, sql: str, values: Any) -> Any: ...

    def fetchall(self) -> Sequence[Any]: ...

    def close(self) -> None: ...


class Statement:
    """core: a Core statement whose values are `bindparam`s; no expanding ones."""

    def __init__(self, core: Executable) -> None:
        self._core = core
        self._compiled: dict[str, tuple[str, Sequence[str] | None, Mapping[str, Any]]] = {}

    def sql(self, dialect: sa.Dialect) -> tuple[str, Sequence[str] | None, Mapping[str, Any]]:
        """The text; the names of its positions, None where the driver takes names; defaults."""
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled = self._core.compile(  # type: ignore[attr-defined]
                dialect=dialect, compile_kwargs={"render_postcompile": True}
            )
            positions = compiled.positiontup if compiled.positional else None
            defaults = {name: value for name, value in compiled.params.items() if value is not None}
            found = self._compiled[dialect.name] = (compiled.string, positions, defaults)
        return found


class Transaction:
    """One transaction on one cursor. Rows come back as plain tuples."""

    def __init__(self, cursor: Cursor, dialect: sa.Dialect) -> None:
        self._cursor, self.dialect = cursor, dialect

    def run(self, statement: Statement, **values: Any) -> None:
        sql, positions, defaults = statement.sql(self.dialect)
        self._cursor.execute(sql, _arranged(positions, {**defaults, **values}))

    def run_many(self, statement: Statement, rows: Iterable[Mapping[str, Any]]) -> None:
        sql, positions, defaults = statement.sql(self.dialect)
        arranged = [_arranged(positions, {**defaults, **row}) for row in rows]
        if arranged:
            self._cursor.executemany(sql, arranged)

    def all(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        self.run(statement, **values)
        return list(self._cursor.fetchall())

    def first(self, statement: Statement, **values: Any) -> tuple[Any, ...] | None:
        return next(iter(self.all(statement, **values)), None)


def _arranged(positions: Sequence[str] | None, values: Mapping[str, Any]) -> Any:
    return values if positions is None else [values[name] for name in positions]


@contextmanager
def transaction(connection: sa.Connection) -> Iterator[Transaction]:
    """The transaction that `connection` is in."""
    cursor = connection.connection.cursor()
    try:
        yield Transaction(cursor, connection.dialect)
    finally:
        cursor.close()
