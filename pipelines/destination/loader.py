"""dlt's part of a pull: load packages, schema evolution, and the state that travels with rows.

A load package holds rows and state together. dlt commits the package before it writes its local
state, and loads rows before the state's row: after a kill anywhere, rows may be read and loaded
a second time (an upsert: no harm), and none is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import dlt
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.storages.exceptions import StorageException
from dlt.pipeline.exceptions import PipelineStepFailed

from connector.logs import get_logger
from pipelines.destination.batches import Batch, as_table
from pipelines.destination.dropped import restore_dropped
from pipelines.destination.load_errors import load_failed
from pipelines.destination.quiet_dlt import SCHEMA_NAME, make_pipeline

_log = get_logger("load")
_UNREADABLE = (StorageException, FileNotFoundError, KeyError, ValueError)


class Loader:
    """One dlt pipeline. Not thread-safe; one pull at a time (see the pull lock).

    destination: a dlt destination. file_format: of load files, None for the destination's own.
    """

    def __init__(
        self, destination: Any, *, dataset: str, pipelines_dir: Path, file_format: str | None
    ) -> None:
        self._file_format = file_format
        self._pipelines_dir = pipelines_dir
        self._open = partial(make_pipeline, destination, dataset, pipelines_dir)
        self._columns: dict[str, dict[str, Any]] = {}
        self._aborting = pipelines_dir.with_name(f"{pipelines_dir.name}.aborting")
        try:
            self.pipeline = self._open()
        except _UNREADABLE as error:
            self.pipeline = self._anew(type(error).__name__)

    def _anew(self, reason: str) -> dlt.Pipeline:
        """Without dlt's local files, which a kill or a power failure has cut short.

        They are a copy: state and schema are in the destination as of the last load. What wasn't
        loaded is read again.
        """
        _log.warning("load.local_state_unreadable", reason=reason)
        dropped = self._pipelines_dir.with_name(f"{self._pipelines_dir.name}.dropped")
        shutil.rmtree(dropped, ignore_errors=True)
        if self._pipelines_dir.exists():
            self._pipelines_dir.rename(dropped)  # all at once: half of it would be worse than none
        shutil.rmtree(dropped, ignore_errors=True)
        self._aborting.unlink(missing_ok=True)
        return self._open()

    def recover(self) -> None:
        """Finish what a killed run left: newer state of the destination, pending packages. Make
        tables and columns anew that somebody dropped.

        Raises:
            DestinationError: the destination can't be reached, or refuses a pending package.
        """
        with _translated():
            if self._aborting.exists():
                self.pipeline = self._anew("an abort was cut short")
            try:
                self._catch_up()
            except PipelineStepFailed as error:
                if not _is_about_local_files(error):
                    raise
                self.pipeline = self._anew(type(error).__name__)
                self._catch_up()
        self._learn_columns()
        self._restore_dropped()

    def _catch_up(self) -> None:
        self.pipeline.sync_destination()
        if not self.pipeline.has_pending_data:
            return
        if self._is_half_loaded():
            _log.info("load.reading_again")
            self._abort()
        else:
            _log.info("load.finishing_pending")
            self.pipeline.run()
        self.pipeline.sync_destination()

    def _abort(self) -> None:
        """Drop the pending package, and go back to the state before it.

        dlt does the one before the other: killed between them, it would keep the marks of rows
        that were never loaded. So who finds that an abort was begun trusts the destination alone.
        """
        self._aborting.touch()
        try:
            self.pipeline.abort_packages()
        except PipelineStepFailed as error:
            self.pipeline = self._anew(type(error).__name__)
        else:
            self._aborting.unlink()

    def _is_half_loaded(self) -> bool:
        """Whether a pending package has begun to load.

        Finishing it would copy rows into a staging table that may hold them already, and the
        upsert doesn't dedupe: each would land twice. So it is dropped with its state, and the
        chunk is read again.
        """
        packages = self.pipeline._get_load_storage().normalized_packages
        return any(
            jobs["started_jobs"] or jobs["completed_jobs"] or jobs["failed_jobs"]
            for jobs in map(packages.get_load_package_jobs, packages.list_packages())
        )

    def _restore_dropped(self) -> None:
        """What dropped tables held is read again."""
        dropped = restore_dropped(self.pipeline, list(self._columns))
        if dropped:
            self.set_marks({name: {} for name in dropped})

    def columns(self, table: str) -> dict[str, Any]:
        """dlt column schemas of `table` as far as it is known; empty if it isn't."""
        return self._columns.get(table, {})

    def _learn_columns(self) -> None:
        """dlt reads its schema anew each time it is asked; rows are made far more often."""
        if self.pipeline.default_schema_name is None:
            return
        for table, found in self.pipeline.default_schema.tables.items():
            self._columns[table] = {
                name: column
                for name, column in found.get("columns", {}).items()
                if "data_type" in column and not name.startswith("_dlt_")
            }

    def mark(self, table: str) -> dict[str, Any]:
        """What dlt's state says about `table`; empty if nothing."""
        sources = self.pipeline.state.get("sources", {})
        found = sources.get(SCHEMA_NAME, {}).get("resources", {}).get(table, {})
        return dict(found.get("mark", {}))

    def set_marks(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """Put marks into the local state alone; the next load carries them on."""
        with self.pipeline.managed_state() as state:
            resources = state.setdefault("sources", {}).setdefault(SCHEMA_NAME, {})
            for table, mark in marks.items():
                resources.setdefault("resources", {}).setdefault(table, {})["mark"] = dict(mark)

    def load(self, batches: Sequence[Batch]) -> None:
        """Upsert every batch in one load package.

        Raises:
            DestinationError: the rows can't be written; what was loaded before stays.
        """
        with _translated():
            self.pipeline.run(
                [self._resource(batch) for batch in batches],
                schema=self._schema(),
                loader_file_format=self._file_format,  # type: ignore[arg-type]
            )
        self._learn_columns()

    def drop_failed(self) -> None:
        """Drop a load that has failed, and the state that went with it.

        Raises:
            DestinationError: what it has left at the destination can't be taken back.
        """
        with _translated():
            self._abort()

    def forget_old_packages(self, keep: int = 3) -> None:
        """Drop the records that dlt keeps of completed loads, all but the last few."""
        packages = self.pipeline._get_load_storage().loaded_packages
        for load_id in sorted(packages.list_packages())[:-keep]:
            packages.delete_package(load_id)

    def _schema(self) -> dlt.Schema:
        if self.pipeline.default_schema_name is None:
            return dlt.Schema(SCHEMA_NAME)
        return self.pipeline.default_schema

    def _resource(self, batch: Batch) -> Any:
        def items() -> Iterator[Any]:
            if batch.mark is not None:
                dlt.current.resource_state(batch.table)["mark"] = dict(batch.mark)
            yield as_table(batch)

        return dlt.resource(
            items,
            name=batch.table,
            columns=cast(Any, dict(batch.columns)),
            primary_key=batch.key if isinstance(batch.key, str) else list(batch.key),
            write_disposition={"disposition": "merge", "strategy": self._strategy()},
            max_table_nesting=0,
        )

    def _strategy(self) -> Any:
        capabilities = self.pipeline.destination.capabilities()
        known = capabilities.supported_merge_strategies or ()
        return "upsert" if "upsert" in known else "delete-insert"


def _is_about_local_files(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _UNREADABLE) and not isinstance(error, ConfigurationException):
            return True
        error = error.__cause__ or error.__context__
    return False


class _translated:  # noqa: N801 - reads as a word in `with _translated():`
    """dlt's failures as ours, without row values."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, PipelineStepFailed):
            raise load_failed(error) from error
