"""dlt's part of a load: the pipeline that loads packages, and DuckDB's file for it.

This module imports dlt, which takes half a second: import it once something is to be loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dlt
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.normalizers.naming import NamingConvention
from dlt.common.storages.exceptions import StorageException
from dlt.destinations import duckdb as dlt_duckdb
from dlt.destinations.job_client_impl import SqlJobClientBase

from connector.logs import get_logger
from connector.source.dlt_source import list_resource, merge_strategy, with_state
from connector.source.fields import HASH_COLUMN
from connector.source.scans import note
from pipelines.destination.dlt_options import make_pipeline
from pipelines.destination.load_errors import chain
from pipelines.destination.loader import RENAMED_TABLES, SCHEMA_NAME, Batch, LoadForm, own_columns

_log = get_logger("load")


class DuckDb(dlt_duckdb):
    """dlt's DuckDB destination, with its capabilities cached.

    dlt asks for them some twenty times per load, and resolves its configuration each time: nearly
    half the cost of a small load.
    """

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._known: dict[str | None, DestinationCapabilitiesContext] = {}

    @property
    def destination_type(self) -> str:
        return "dlt.destinations.duckdb"

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        if config is not None:
            return super().capabilities(config, naming)
        name = naming.name() if naming else None
        if name not in self._known:
            self._known[name] = super().capabilities(None, naming)
        return self._known[name].copy()


class LoadPipeline:
    """One dlt pipeline without local files from before: it begins with the state and the schema in
    the destination. form: of its load files.
    """

    def __init__(self, destination: Any, *, dataset: str, folder: Path, form: LoadForm) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        self.pipeline = make_pipeline(destination, dataset, scratch)
        self._form = form
        self.pipeline.sync_destination()
        for old, new in RENAMED_TABLES.items():
            _rename_table(self.pipeline, old, new)

    @property
    def sources(self) -> Mapping[str, Any]:
        """The states of dlt's sources."""
        found: Mapping[str, Any] = self.pipeline.state.get("sources", {})
        return found

    def columns(self) -> dict[str, dict[str, Any]]:
        """dlt column schemas by table: a copy, since dlt reads its schema each time."""
        if self.pipeline.default_schema_name is None:
            return {}
        return own_columns(self.pipeline.default_schema.tables)

    def restore_dropped(self) -> list[str]:
        """Recreate tables and columns that were dropped by hand: dlt trusts its schema, so every
        load would fail. Returns the recreated tables, which are empty."""
        return _restore_dropped(self.pipeline, list(self.columns()))

    def load(
        self, batches: Sequence[Batch], states: Mapping[str, Mapping[str, Any]], *, merges: bool
    ) -> None:
        """Upsert every batch in one load package. states: of other tables, stored with it.
        merges: also rows that are new."""
        pipeline = self.pipeline
        is_new = pipeline.default_schema_name is None
        if states:
            with pipeline.managed_state() as state:
                sources = state.setdefault("sources", {}).setdefault(SCHEMA_NAME, {})
                for table, scans in states.items():
                    found = sources.setdefault("resources", {}).setdefault(table, {})
                    note(found, scans)
        pipeline.run(
            [self._resource(batch, merges=merges) for batch in batches],
            schema=dlt.Schema(SCHEMA_NAME) if is_new else pipeline.default_schema,
            loader_file_format=self._form.file_format,  # type: ignore[arg-type]
        )

    def _resource(self, batch: Batch, *, merges: bool) -> Any:
        def rows() -> list[Any]:
            # without rows, only Arrow makes dlt create the table
            is_plain = self._form.is_plain and len(batch.rows) > 0
            items: Any = batch.as_dicts() if is_plain else batch.as_table()
            return [items if batch.state is None else with_state(items, batch.state)]

        resource = list_resource(
            batch.table,
            rows,
            columns=batch.columns,
            primary_key=batch.key,
            strategy=merge_strategy(self.pipeline.destination.capabilities()),
            table_format=self._form.table_format,
        )
        if batch.is_new and not merges:
            resource.apply_hints(write_disposition="append")
        return resource

    @staticmethod
    def is_about_local_files(error: BaseException) -> bool:
        """Whether dlt failed on one of its local files, which another process may have removed."""
        return any(
            isinstance(cause, StorageException | FileNotFoundError | NotADirectoryError)
            for cause in chain(error)
        )


def _rename_table(pipeline: dlt.Pipeline, old: str, new: str) -> None:
    """Rename a table of an earlier version. On a server, whose tables are read directly, its old
    name stays as a view."""
    schema = None if pipeline.default_schema_name is None else pipeline.default_schema
    if schema is None or old not in schema.tables:
        return
    with pipeline.destination_client() as client:
        if isinstance(client, SqlJobClientBase):
            found = dict(client.get_storage_tables([old, new]))
            if found.get(old) and not found.get(new):
                name, server = client.sql_client.make_qualified_table_name, client.sql_client
                with server.begin_transaction():
                    renamed = server.escape_column_name(new)
                    server.execute_sql(f"ALTER TABLE {name(old)} RENAME TO {renamed}")
                    if not pipeline.destination.destination_type.endswith("duckdb"):
                        server.execute_sql(f"CREATE VIEW {name(old)} AS SELECT * FROM {name(new)}")  # noqa: S608
                _log.info("load.table_renamed", old=old, new=new)
    (table,) = schema.drop_tables([old])
    schema.update_table({**table, "name": new})
    pipeline.schemas.commit_live_schema(schema.name)


def _restore_dropped(pipeline: dlt.Pipeline, known: Sequence[str]) -> list[str]:
    """Recreate tables and columns that were dropped by hand: dlt trusts its schema, so every load
    would fail. known: tables of dlt's schema. Returns the recreated tables, which are empty."""
    names = [name for name in known if not name.startswith("_dlt_")]
    if not names:
        return []
    with pipeline.destination_client() as client:
        if not isinstance(client, SqlJobClientBase):
            return []
        found = dict(client.get_storage_tables([*names, client.schema.version_table_name]))
        if not found.get(client.schema.version_table_name):
            return []  # nothing was ever loaded, or all of it was dropped: dlt creates everything
        dropped = [name for name in names if not found.get(name)]
        lacking = [name for name in names if found[name] and _lacks(client, name, found[name])]
        if dropped or lacking:
            client.update_stored_schema(only_tables=[*dropped, *lacking], force=True)
            _log.warning("load.dropped_restored", tables=dropped, columns_of=lacking)
        for name in lacking:  # a column that was dropped has lost its values: no row is unchanged
            if HASH_COLUMN in client.schema.get_table_columns(name):
                qualified = client.sql_client.make_qualified_table_name(name)
                client.sql_client.execute_sql(f"UPDATE {qualified} SET {HASH_COLUMN} = NULL")  # noqa: S608
    return dropped


def _lacks(client: SqlJobClientBase, table: str, found: dict[str, Any]) -> bool:
    is_exact = client.capabilities.generates_case_sensitive_identifiers()
    return bool(client.schema.get_new_table_columns(table, found, case_sensitive=is_exact))
