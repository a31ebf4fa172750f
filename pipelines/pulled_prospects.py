"""What a push sees of the last pull: the published copy, or the tables on a server; read only."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from connector.errors import DestinationError
from connector.logs import get_logger
from connector.settings import Settings
from connector.upsert.comparing import READ_AS, same_phone
from connector.upsert.models import PROSPECT_FIELDS
from connector.upsert.pulled import NothingPulled, Pulled, PulledProspect
from pipelines.warehouses import Warehouse

_log = get_logger("push")
_IN_ONE_QUERY = 1_000
_KEY_DIGITS = 7  # of a phone's end: enough for a short list, which is then looked at


@contextmanager
def open_pulled(settings: Settings) -> Iterator[Pulled]:
    """The destination as pushes see it; empty where nothing has been pulled yet."""
    with ExitStack() as stack:
        warehouse = _open(settings, stack)
        columns = _columns(warehouse, settings.dataset) if warehouse else []
        if warehouse is None or "id" not in columns:
            yield NothingPulled()
            return
        hidden = settings.pull.prospects.hash_columns
        readable = [name for name in columns if name not in {*hidden, *map(_snake, hidden)}]
        yield PulledProspects(warehouse, readable)


def _open(settings: Settings, stack: ExitStack) -> Warehouse | None:
    if settings.destination == "duckdb":
        return _open_copy(settings, stack)
    return _open_server(settings, stack)


def _open_copy(settings: Settings, stack: ExitStack) -> Warehouse | None:
    import duckdb

    from connector.upsert.inputs.database_files import open_read_only
    from pipelines.warehouses import DuckWarehouse

    if not settings.duckdb_path.exists():
        return None
    try:
        connection = open_read_only(settings.duckdb_path, settings.dataset)
    except duckdb.Error as error:
        _log.warning("push.copy_unreadable", path=str(settings.duckdb_path), why=str(error))
        return None
    stack.callback(connection.close)
    return DuckWarehouse(connection, settings.dataset)


def _open_server(settings: Settings, stack: ExitStack) -> Warehouse | None:
    import dlt

    from pipelines.quiet_dlt import make_pipeline
    from pipelines.warehouses import ServerWarehouse

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hiringcenter-")))
    destination = dlt.destination(settings.destination)
    return ServerWarehouse(make_pipeline(destination, settings.dataset, folder))


def _columns(warehouse: Warehouse, dataset: str) -> list[str]:
    sql = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = 'prospects'"
    )
    try:
        return [row[0] for row in warehouse.query(sql, [dataset])]
    except DestinationError as error:
        _log.warning("push.destination_unreadable", why=str(error))
        return []


class PulledProspects:
    """The table `prospects` of the last pull. columns: those whose values can be compared."""

    def __init__(self, warehouse: Warehouse, columns: Sequence[str]) -> None:
        self._warehouse, self._columns = warehouse, frozenset(columns)
        self._table = warehouse.name("prospects")
        self.complete = self._is_complete()
        self._fields = {
            read_as: _snake(read_as)
            for read_as in (READ_AS.get(name, name) for name in PROSPECT_FIELDS)
            if _snake(read_as) in self._columns
        }

    def by_id(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        found = self._select(["id", self._column("updated_at"), "_hc_deleted_at"], "id", ids)
        return {row[0]: PulledProspect(row[0], _ms(row[1]), _ms(row[2])) for row in found}

    def with_fields(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        columns = ["id", self._column("updated_at"), "_hc_deleted_at", *self._fields.values()]
        return {
            row[0]: PulledProspect(row[0], _ms(row[1]), _ms(row[2]), self._read(row[3:]))
            for row in self._select(columns, "id", ids)
        }

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        if "email" not in self._columns:
            return {}
        found: dict[str, set[str]] = {}
        for id_, email in self._living(["id", "lower(email)"], "lower(email)", emails):
            found.setdefault(email, set()).add(id_)
        return {email: frozenset(ids) for email, ids in found.items()}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        if "phone" not in self._columns:
            return {}
        ends: dict[str, list[str]] = {}
        for phone in phones:
            ends.setdefault(re.sub(r"\D", "", phone)[-_KEY_DIGITS:], []).append(phone)
        end = f"right(regexp_replace(phone, '[^0-9]', '', 'g'), {_KEY_DIGITS})"
        found: dict[str, set[str]] = {}
        for id_, theirs, key in self._living(["id", "phone", end], end, ends):
            for phone in ends[key]:
                if same_phone(phone, theirs):
                    found.setdefault(phone, set()).add(id_)
        return {phone: frozenset(ids) for phone, ids in found.items()}

    def _living(
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
            places = ", ".join(["%s"] * len(some))
            yield from self._warehouse.query(
                f"SELECT {', '.join(columns)} FROM {self._table} "  # noqa: S608
                f"WHERE {key} IN ({places}) {more}",
                some,
            )

    def _column(self, name: str) -> str:
        return name if name in self._columns else "NULL"

    def _read(self, values: Sequence[Any]) -> Mapping[str, Any]:
        fields = dict(zip(self._fields, values, strict=True))
        if isinstance(fields.get("labels"), str):
            fields["labels"] = orjson.loads(fields["labels"])
        return fields

    def _is_complete(self) -> bool:
        name = self._table.replace("prospects", "_hc_freshness")
        sql = (
            f"SELECT count(*) FROM {name} "  # noqa: S608 - a name of our own
            "WHERE resource = 'prospects' AND last_complete_at IS NOT NULL"
        )
        try:
            return bool(self._warehouse.query(sql)[0][0])
        except Exception:  # noqa: BLE001 - a destination that somebody made otherwise
            return False


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1]}", name).lower()


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
