"""dlt's part of a pull: load packages, schema evolution, and the state that travels with rows.

A load package holds rows and state together, and dlt loads rows before the state's row: after a
kill anywhere, rows may be read and loaded a second time (an upsert: no harm), and none is skipped.

dlt's local files are scratch. Each run, and each load after a failed one, begins without them,
from the state and the schema in the destination: a package that a kill cut short, whether dlt was
renaming it or had loaded a half of it, is read again instead of being finished. So there is one
way to recover, it is taken every time, and nothing that dlt finds on disk can keep it from loading.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dlt
import orjson
import pyarrow as pa
from dlt.common.storages.exceptions import StorageException

from connector.errors import ConnectorError
from connector.logs import get_logger
from pipelines.destination.dlt_options import SCHEMA_NAME, make_pipeline
from pipelines.destination.dropped import restore_dropped
from pipelines.destination.load_errors import chain, load_failed

_log = get_logger("load")
Marks = dict[str, dict[str, Any]]
# dlt takes dicts as well, at six times the cost. What makes Arrow unsafe is leaving types to
# inference, which rounds 1.5 into an integer column in silence: here each column has its type.
_ARROW_TYPES = {
    "text": pa.string(),
    "json": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),  # DuckDB refuses what dlt makes of "ms"
    "binary": pa.binary(),
    "date": pa.date32(),
}


@dataclass(frozen=True)
class Batch:
    """Rows for one table, each key at most once, as dicts or as the Arrow table of `to_table`.

    columns: dlt column schemas by name. mark: what dlt's state is to say about `table` from these
    rows on; None leaves it as it is.
    """

    table: str
    rows: Sequence[Mapping[str, Any]] | pa.Table
    columns: Mapping[str, Mapping[str, Any]]
    key: str | Sequence[str] = "id"
    mark: Mapping[str, Any] | None = None

    def as_table(self) -> pa.Table:
        """The rows with exactly the types of their columns."""
        return self.rows if isinstance(self.rows, pa.Table) else to_table(self.rows, self.columns)


def to_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, Any]]
) -> pa.Table:
    """`rows` with every column of `columns` (dlt column schemas); what a row leaves out is null.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a value that isn't of its column's type.
        KeyError: a column of a type that rows of this connector never have.
    """
    arrays, fields = [], []
    for name, column in columns.items():
        values = [row.get(name) for row in rows]
        if column["data_type"] == "json":
            values = [
                value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
                for value in values
            ]
        arrow_type = _ARROW_TYPES[column["data_type"]]
        arrays.append(pa.array(values, type=arrow_type))
        fields.append(pa.field(name, arrow_type, nullable=column.get("nullable", True)))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class Loader:
    """One dlt pipeline. Not thread-safe; one pull at a time (see the pull lock).

    destination: a dlt destination. file_format: of load files, None for the destination's own.
    folder: for dlt's scratch files and for marks that no load has carried yet.
    """

    def __init__(
        self, destination: Any, *, dataset: str, folder: Path, file_format: str | None
    ) -> None:
        self._destination, self._dataset = destination, dataset
        self._file_format, self._folder = file_format, folder
        self._columns: dict[str, dict[str, Any]] = {}
        self._local_marks = _LocalMarks(folder.with_name(f"{folder.name}.marks.json"))
        self._is_clean = False
        with _translated():
            self.pipeline = self._fresh_pipeline()

    def _fresh_pipeline(self) -> dlt.Pipeline:
        """In a folder of its own; what others have left beside it is removed if it can be."""
        if self._folder.exists() and not self._folder.is_dir():
            self._folder.unlink()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.close()
        scratch = tempfile.mkdtemp(prefix="run-", dir=self._folder)
        return make_pipeline(self._destination, self._dataset, Path(scratch))

    def close(self) -> None:
        """Remove dlt's local files; the pipeline can't be used any more."""
        for leftover in self._folder.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def recover(self) -> None:
        """Take state and schema from the destination. Make tables and columns anew that somebody
        dropped.

        Raises:
            DestinationError: the destination can't be reached or read.
        """
        with _translated():
            self.pipeline.sync_destination()
            self._set_state(self._local_marks.after(self._sources()))
        self._is_clean = True
        self._learn_columns()
        self._restore_dropped()

    def _begin_again(self) -> None:
        """Without what a failed load has left, in dlt's files and in its memory."""
        with _translated():
            self.pipeline = self._fresh_pipeline()
        self.recover()

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
        found = self._sources().get(SCHEMA_NAME, {}).get("resources", {}).get(table, {})
        return dict(found.get("mark", {}))

    def set_marks(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """Note marks that come with no rows, in a file; the next load carries them on."""
        self._local_marks.add(marks)
        self._set_state(marks)

    def _set_state(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        if not marks:
            return
        with self.pipeline.managed_state() as state:
            resources = state.setdefault("sources", {}).setdefault(SCHEMA_NAME, {})
            for table, mark in marks.items():
                resources.setdefault("resources", {}).setdefault(table, {})["mark"] = dict(mark)

    def _sources(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.pipeline.state.get("sources", {}))

    def load(self, batches: Sequence[Batch]) -> None:
        """Upsert every batch in one load package. It may be called again after it has failed.

        Raises:
            DestinationError: the rows can't be written; what was loaded before stays.
        """
        if not self._is_clean:
            self._begin_again()
        try:
            self._load(batches)
        except Exception as error:
            if not _is_about_local_files(error):
                raise
            _log.warning("load.local_files_unusable", folder=str(self._folder))
            self._begin_again()
            self._load(batches)
        self._local_marks.loaded(self._sources())
        self._learn_columns()

    def _load(self, batches: Sequence[Batch]) -> None:
        self._is_clean = False
        with _translated():
            self.pipeline.run(
                [self._resource(batch) for batch in batches],
                schema=self._schema(),
                loader_file_format=self._file_format,  # type: ignore[arg-type]
            )
        self._is_clean = True

    def _schema(self) -> dlt.Schema:
        if self.pipeline.default_schema_name is None:
            return dlt.Schema(SCHEMA_NAME)
        return self.pipeline.default_schema

    def _resource(self, batch: Batch) -> Any:
        def items() -> Iterator[Any]:
            if batch.mark is not None:
                dlt.current.resource_state(batch.table)["mark"] = dict(batch.mark)
            yield batch.as_table()

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


class _LocalMarks:
    """Marks that no load has carried to the destination yet, in a file of the state directory.

    They hold only together with the state of the load before them: the file names it by a digest,
    and counts for nothing where the destination has another one. file: its path.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._marks: Marks = {}
        self._base = ""

    def after(self, sources: Mapping[str, Any]) -> Marks:
        """Those that come after the state `sources`, as the destination has it."""
        self._base, self._marks = _digest(sources), {}
        try:
            found = json.loads(self._file.read_text())
            if found["base"] == self._base:
                self._marks = {name: dict(mark) for name, mark in found["marks"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # none yet, or cut short: their pages are read again
        return dict(self._marks)

    def add(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        self._marks |= {name: dict(mark) for name, mark in marks.items()}
        written = self._file.with_name(f"{self._file.name}.new")
        written.write_text(json.dumps({"base": self._base, "marks": self._marks}))
        written.replace(self._file)

    def loaded(self, sources: Mapping[str, Any]) -> None:
        """The destination has the state `sources` now, and with it all marks."""
        self._base, self._marks = _digest(sources), {}
        self._file.unlink(missing_ok=True)


def _digest(sources: Mapping[str, Any]) -> str:
    text = json.dumps(sources, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_about_local_files(error: BaseException) -> bool:
    """Whether dlt failed at a file of its own, which another process may have removed."""
    return any(
        isinstance(cause, StorageException | FileNotFoundError | NotADirectoryError)
        for cause in chain(error)
    )


class _translated:  # noqa: N801 - reads as a word in `with _translated():`
    """dlt's failures as ours, without row values."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConnectorError):
            raise load_failed(error) from error
