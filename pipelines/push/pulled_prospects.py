"""What a push sees of the last pull: the published copy, or the tables on a server; read only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb
import orjson

from connector.errors import DestinationError
from connector.settings import Settings
from connector.upsert.inputs.table_reader import open_read_only
from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.matching import READ_AS, same_phone
from connector.upsert.rows.write_schema import PROSPECT_FIELDS
from pipelines.destination.identity import is_duckdb
from pipelines.destination.warehouse import DuckWarehouse, ServerWarehouse

_Tables = DuckWarehouse | ServerWarehouse
_IN_ONE_QUERY = 1_000
_KEY_DIGITS = 7  # at a phone's end: enough to find a few candidates, which are then compared


@contextmanager
def open_pulled(settings: Settings) -> Iterator[Pulled]:
    """The destination as pushes see it; empty where nothing has been pulled yet."""
    with _opened(settings) as tables:
        columns = _columns(tables, settings.dataset, "prospects") if tables else []
        if tables is None or "id" not in columns:
            yield Pulled()
            return
        hidden = settings.pull.prospects.hash_columns
        readable = [name for name in columns if name not in {*hidden, *map(_snake, hidden)}]
        complete_ms = None
        if _columns(tables, settings.dataset, "_hc_freshness"):
            freshness = tables.name("_hc_freshness")
            sql = f"SELECT max(last_complete_at) FROM {freshness} WHERE resource = 'prospects'"  # noqa: S608 - ours
            complete_ms = _ms(tables.query(sql)[0][0])
        yield PulledProspects(tables, readable, complete_ms=complete_ms)


def rows_sent_before(settings: Settings) -> int:
    """How many rows earlier pushes have written, as far as the destination knows.

    Raises:
        DestinationError: it can't be read.
    """
    with _opened(settings) as tables:
        if tables is None or not _columns(tables, settings.dataset, "_hc_push_results"):
            return 0
        ((count,),) = tables.query(
            f"SELECT count(*) FROM {tables.name('_hc_push_results')} "  # noqa: S608 - a name of ours
            "WHERE status IN ('created', 'updated')"
        )
        return int(count)


class _PublishedCopy(DuckWarehouse):
    """The tables of the file that analysts open. A cursor wouldn't know its schemas."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql.replace("%s", "?"), list(parameters)).fetchall()


@contextmanager
def _opened(settings: Settings) -> Iterator[_Tables | None]:
    """The published copy, or the server's tables; None where nothing has been published yet."""
    if not is_duckdb(settings):
        from pipelines.destination.postgres import server_pipeline

        with server_pipeline(settings) as pipeline:
            yield ServerWarehouse(lambda: pipeline)
        return
    path = settings.duckdb_path
    if not path.exists():
        yield None
        return
    try:
        with open_read_only(path, settings.dataset) as connection:
            yield _PublishedCopy(connection, settings.dataset)
    except duckdb.Error as error:
        raise DestinationError(
            f"{path}: the published copy can't be read ({type(error).__name__}). Pull to make it "
            "again, or move it away."
        ) from error


def _columns(tables: _Tables, dataset: str, table: str) -> list[str]:
    sql = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s"
    )
    return [row[0] for row in tables.query(sql, [dataset, table])]


class PulledProspects(Pulled):
    """The table `prospects` of the last pull. columns: those whose values can be compared."""

    def __init__(self, tables: _Tables, columns: Sequence[str], *, complete_ms: int | None) -> None:
        self._tables, self._columns = tables, frozenset(columns)
        self.complete_ms = complete_ms
        self._table = tables.name("prospects")
        read_as = (READ_AS.get(name, name) for name in PROSPECT_FIELDS)
        self._fields = {name: _snake(name) for name in read_as if _snake(name) in self._columns}

    def by_id(
        self, ids: Collection[str], *, with_fields: bool = False
    ) -> dict[str, PulledProspect]:
        updated_at = "updated_at" if "updated_at" in self._columns else "NULL"
        fields = self._fields if with_fields else {}
        columns = ["id", updated_at, "_hc_deleted_at", *fields.values()]
        found = {}
        for id_, updated, deleted, *values in self._select(columns, "id", ids):
            shown = dict(zip(fields, values, strict=True))
            if isinstance(shown.get("labels"), str):
                shown["labels"] = orjson.loads(shown["labels"])
            found[str(id_)] = PulledProspect(str(id_), _ms(updated), _ms(deleted), shown)
        return found

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        if "email" not in self._columns:
            return {}
        found: dict[str, set[str]] = {}
        for id_, email in self._live(["id", "lower(email)"], "lower(email)", emails):
            found.setdefault(email, set()).add(str(id_))
        return {email: frozenset(ids) for email, ids in found.items()}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        if "phone" not in self._columns:
            return {}
        ends: dict[str, list[str]] = {}
        for phone in phones:
            ends.setdefault(re.sub(r"\D", "", phone)[-_KEY_DIGITS:], []).append(phone)
        end = f"right(regexp_replace(phone, '[^0-9]', '', 'g'), {_KEY_DIGITS})"
        found: dict[str, set[str]] = {}
        for id_, theirs, key in self._live(["id", "phone", end], end, ends):
            for phone in ends[key]:
                if same_phone(phone, theirs):
                    found.setdefault(phone, set()).add(str(id_))
        return {phone: frozenset(ids) for phone, ids in found.items()}

    def _live(
        self, columns: Sequence[str], key: str, values: Collection[str]
    ) -> Iterator[tuple[Any, ...]]:
        return self._select(columns, key, values, "AND _hc_deleted_at IS NULL")

    def _select(
        self, columns: Sequence[str], key: str, values: Collection[str], more: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        """Rows whose `key` is one of `values`. All names are our own; values are parameters."""
        wanted = list(values)
        for start in range(0, len(wanted), _IN_ONE_QUERY):
            some = wanted[start : start + _IN_ONE_QUERY]
            placeholders = ", ".join(["%s"] * len(some))
            yield from self._tables.query(
                f"SELECT {', '.join(columns)} FROM {self._table} "  # noqa: S608
                f"WHERE {key} IN ({placeholders}) {more}",
                some,
            )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1]}", name).lower()


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
