"""What each kind of destination can do: its level, the form in which it takes rows, its quirks.

A kind is dlt's type and what else decides, such as `postgres`, `sqlalchemy:mysql` and
`filesystem:delta`, however the destination is named in the settings.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import dlt
from dlt.destinations import postgres
from dlt.destinations import sqlalchemy as dlt_sqlalchemy

from connector.errors import ConfigurationError
from connector.settings import Settings
from connector.source.dlt_source import list_resource, merge_strategy
from pipelines.destination.dlt_options import make_pipeline, own_configuration
from pipelines.destination.identity import destination_kind, destination_type
from pipelines.destination.load_errors import translated
from pipelines.destination.loader import Batch, LoadForm

LOCK_TIMEOUT_S = 2
"""Of one statement on PostgreSQL: while it waits for ALTER TABLE, all later readers wait too."""
_APPLICATION = "hiringcenter"
_SCRATCH, _SCRATCH_TABLE = "hiringcenter_check", "_hc_check"
_SCRATCH_COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"name": "id", "data_type": "text", "nullable": False, "primary_key": True},
    "note": {"name": "note", "data_type": "text"},
}
_SCHEMA_NAMES_TABLES = ("filesystem", "lance", "lancedb")  # SQL knows those of dlt's schema only
_WITHOUT_UPDATE = ("filesystem", "clickhouse", "athena", "lance", "lancedb")


class Level(StrEnum):
    """How far a kind of destination is known to keep the promises.

    tested: by one script, which the table in docs/how-to/warehouse.md names with its versions.
    untested: it runs, with a warning, once a scratch table has shown that it merges. refused: it is
    known to break a promise.
    """

    TESTED = "tested"
    UNTESTED = "untested"
    REFUSED = "refused"


EMULATED = frozenset({"snowflake"})
"""Tested on an emulator: the real one is tried with a scratch table all the same, once."""
TESTED = EMULATED | {
    "duckdb", "postgres", "sqlalchemy:sqlite", "sqlalchemy:mysql", "filesystem:delta", "ducklake",
}  # fmt: skip
_NO_SQL = "its rows can't be read back with SQL, so changes and deletions can't be found"
_DUCKDB = "HIRINGCENTER_DESTINATION=duckdb"
REFUSED = {
    "filesystem": (
        "plain files only take rows at their end, so each change of a row would be another row",
        "HIRINGCENTER_TABLE_FORMAT=delta, for Delta tables in the same bucket",
    ),
    "athena": (
        "its plain tables only take rows at their end, so each change would be another row",
        "HIRINGCENTER_TABLE_FORMAT=iceberg, for Iceberg tables",
    ),
    "qdrant": (_NO_SQL, _DUCKDB),
    "weaviate": (_NO_SQL, _DUCKDB),
    "destination": ("a function gets rows, and keeps none that could be compared", _DUCKDB),
    "dummy": ("it keeps no rows", _DUCKDB),
}
"""kind → (why, the nearest alternative)"""


def level_of(kind: str) -> Level:
    """The level of a kind of destination."""
    if kind in REFUSED:
        return Level.REFUSED
    return Level.TESTED if kind in TESTED else Level.UNTESTED


def refuse_unusable(settings: Settings) -> None:
    """Raises ConfigurationError for a destination that is known to break a promise."""
    kind = destination_kind(settings)
    if kind in REFUSED:
        reason, nearest = REFUSED[kind]
        raise ConfigurationError(
            f"HIRINGCENTER_DESTINATION={settings.destination!r} is refused: {reason}. The nearest "
            f"alternative: {nearest}."
        )


def form_of(settings: Settings, destination: Any) -> LoadForm:
    """How the settings' destination takes rows; `destination` is dlt's."""
    kind = destination_type(settings)
    has_update = kind not in _WITHOUT_UPDATE
    if kind in ("filesystem", "athena"):
        return LoadForm("parquet", table_format=settings.table_format, has_update=has_update)
    if kind == "duckdb":
        return LoadForm("parquet")
    if kind == "postgres":  # CSV would turn '' into null
        return LoadForm("insert_values")
    with own_configuration():
        capabilities = destination.capabilities()
    preferred = capabilities.preferred_loader_file_format
    return LoadForm(preferred, is_plain=preferred != "parquet", has_update=has_update)


# --- the scratch table ----------------------------------------------------------------------------


def try_merging(settings: Settings, destination: Any, form: LoadForm) -> None:
    """Load, merge and delete rows of a scratch table where rows would land, and drop it.

    Raises:
        ConfigurationError: rows are doubled or lost by that.
        DestinationError: it can't be written.
    """
    with (
        translated(),
        own_configuration(),
        tempfile.TemporaryDirectory(prefix="hiringcenter-") as folder,
    ):
        pipeline = dlt.pipeline(
            _SCRATCH,
            destination=destination,
            dataset_name=settings.dataset,
            pipelines_dir=folder,
        )
        try:
            _expect(pipeline, form, {"a": "1", "b": "2"}, {"a": "1", "b": "2"})
            _expect(pipeline, form, {"a": "3", "c": None}, {"a": "3", "b": "2", "c": None})
            if form.has_update:
                with pipeline.sql_client() as client:
                    name = client.make_qualified_table_name(_SCRATCH_TABLE)
                    client.execute_sql(f"DELETE FROM {name} WHERE id = %s", "b")  # noqa: S608
                _compare(pipeline, {"a": "3", "c": None})
        finally:
            _drop_scratch(pipeline, form)


def _expect(
    pipeline: dlt.Pipeline,
    form: LoadForm,
    rows: Mapping[str, str | None],
    expected: Mapping[str, str | None],
) -> None:
    """Load `rows`, which then are `expected` together with those before."""
    batch = Batch(_SCRATCH_TABLE, [{"id": id_, "note": note} for id_, note in rows.items()],
                  _SCRATCH_COLUMNS)  # fmt: skip
    items: Any = batch.as_dicts() if form.is_plain else batch.as_table()
    resource = list_resource(
        _SCRATCH_TABLE,
        lambda: [items],
        columns=_SCRATCH_COLUMNS,
        strategy=merge_strategy(pipeline.destination.capabilities()),
        table_format=form.table_format,
    )
    known = pipeline.default_schema_name is not None
    schema = pipeline.default_schema if known else dlt.Schema(_SCRATCH)
    pipeline.run([resource], schema=schema, loader_file_format=cast(Any, form.file_format))
    _compare(pipeline, expected)


def _compare(pipeline: dlt.Pipeline, expected: Mapping[str, str | None]) -> None:
    with pipeline.sql_client() as client:
        name = client.make_qualified_table_name(_SCRATCH_TABLE)
        found = client.execute_sql(f"SELECT id, note FROM {name}") or ()  # noqa: S608
    rows = sorted((str(id_), note) for id_, note in found)
    if rows != sorted(expected.items()):
        raise ConfigurationError(
            f"The destination doesn't merge rows: a scratch table has {len(rows)} rows where "
            f"{len(expected)} were expected, or other values. Pulls would lose or double rows. "
            f"The nearest alternative: {_DUCKDB}, or a PostgreSQL database."
        )


def _drop_scratch(pipeline: dlt.Pipeline, form: LoadForm) -> None:
    with suppress(Exception), pipeline.destination_client() as client:
        with suppress(Exception):  # what is left of it is scratch
            client.drop_tables(_SCRATCH_TABLE, delete_schema=True)  # type: ignore[attr-defined]
        with suppress(Exception), client.with_staging_dataset():  # type: ignore[attr-defined]
            client.drop_tables(_SCRATCH_TABLE, delete_schema=True)  # type: ignore[attr-defined]
    if not form.has_update:
        return
    with suppress(Exception), pipeline.sql_client() as server:
        for table, column in (
            ("_dlt_loads", "schema_name"),
            ("_dlt_pipeline_state", "pipeline_name"),
        ):
            name = server.make_qualified_table_name(table)
            server.execute_sql(f"DELETE FROM {name} WHERE {column} = %s", _SCRATCH)  # noqa: S608


# --- dlt's destinations ---------------------------------------------------------------------------


class Postgres(postgres):
    """dlt's, with a time-out for locks, and a name in the server's list of sessions."""

    @property
    def destination_type(self) -> str:
        return "dlt.destinations.postgres"

    def configuration(self, initial_config: Any, accept_partial: bool = False) -> Any:
        configuration = super().configuration(initial_config, accept_partial)
        credentials = configuration.credentials
        if credentials is not None:
            query = dict(credentials.query or {})
            options = query.get("options") or ""
            if "lock_timeout" not in options:
                query["options"] = f"{options} -clock_timeout={LOCK_TIMEOUT_S}s".strip()
            query.setdefault("application_name", _APPLICATION)
            credentials.query = query
        return configuration


class MySql(dlt_sqlalchemy):
    """dlt's for MySQL and MariaDB, with texts of any length that are compared letter by letter:
    its own take 64 kB, and the server's collation may hold `a` and `A` for equal."""

    @property
    def destination_type(self) -> str:
        return "dlt.destinations.sqlalchemy"

    @classmethod
    def adjust_capabilities(cls, caps: Any, config: Any, naming: Any) -> Any:
        from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper
        from sqlalchemy.dialects.mysql import LONGTEXT

        class LongTexts(MysqlVariantTypeMapper):
            def db_type_from_text_type(self, column: Any, table: Any) -> Any:
                if column.get("precision") is not None:
                    return super().db_type_from_text_type(column, table)
                return LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin")

        caps = super().adjust_capabilities(caps, config, naming)
        caps.type_mapper = LongTexts
        return caps


def server_destination(settings: Settings) -> Any:
    """dlt's destination of the settings, with our changes where it has any.

    Raises:
        ConfigurationError: it is refused, or isn't configured.
    """
    refuse_unusable(settings)
    name = settings.destination.rpartition(".")[2]
    match destination_kind(settings):
        case "postgres":
            return Postgres(destination_name=name)
        case "sqlalchemy:mysql":
            return MySql(destination_name=name)
        case kind:
            if kind.startswith("sqlalchemy"):  # of dlt's merge; it is harmless
                warnings.filterwarnings("ignore", message="implicitly coercing SELECT object")
            return dlt.destination(settings.destination)


@contextmanager
def server_pipeline(settings: Settings) -> Iterator[dlt.Pipeline]:
    """A pipeline for reading a server's tables, which leaves nothing on disk."""
    with own_configuration(), tempfile.TemporaryDirectory(prefix="hiringcenter-") as folder:
        pipeline = make_pipeline(server_destination(settings), settings.dataset, Path(folder))
        if destination_type(settings) in _SCHEMA_NAMES_TABLES:
            with translated():
                pipeline.sync_destination()
        yield pipeline
