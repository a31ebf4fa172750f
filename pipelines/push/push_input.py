"""Where a push takes its rows from: a file, a table, a query, or a job of the configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from connector.errors import EncodingGuessed, InputError, UnknownSetting, UsageError, nearest
from connector.settings import Settings
from connector.upsert.inputs import Input, open_input
from connector.upsert.outbox.outbox import PROSPECTS
from connector.upsert.outbox.person_plan import Mode
from connector.upsert.rows.row_files import (
    RejectsFile,
    ResultsFile,
    WrittenFiles,
    next_rejects_name,
)
from connector.upsert.rows.write_schema import normalized
from pipelines.destination.identity import is_duckdb

To = Literal["prospects", "notes", "tasks", "meetings"]
_FETCHED_ROWS = 5_000
_NAMELESS = (
    "stdin has no name, so all that is pushed from it counts as one input, and is compared with "
    "what was pushed from stdin before. Name it: --source NAME, the same at each push."
)


@dataclass(frozen=True)
class PushRequest:
    """What one push is asked to do. Exactly one of file, table and sql; `-` = CSV on stdin.

    to: what rows become; key: the column that is the identity of one that isn't a prospect.
    database: a DuckDB file for `table` and `sql`, instead of the destination. encoding, delimiter,
    sheet: of `file`; None: as detected. skip_rows: lines of `file` above its header. rejects: file
    for rows that weren't applied; None: next to the input. results: file for every row with its
    outcome; None: none. new_ledger: if the outbox was lost, start a new one. job: the push job that
    this is, if any. allow_shared_contact: send rows that seem to be about another person than the
    one who has their email or phone. source_name: the input's name, for a file whose path changes.
    fill_empty: only fill fields that are empty. restore: send what was edited in
    HiringCenter since. recheck: look people up before they are changed. lookups: how many people
    may be looked up to fill empty fields; None: as the settings say. to_apply: the plan is kept,
    and will be sent as it is.
    """

    file: str | None = None
    table: str | None = None
    sql: str | None = None
    to: To = "prospects"
    key: str | None = None
    database: Path | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    skip_rows: int = 0
    mapping: Path | None = None
    mode: Mode = "upsert"
    dry_run: bool = False
    force: bool = False
    clear_empty: bool = False
    ignore_unknown: bool = False
    max_changes: int | None = None
    rejects: Path | None = None
    results: Path | None = None
    new_ledger: bool = False
    allow_shared_contact: bool = False
    source_name: str | None = None
    fill_empty: bool = False
    restore: bool = False
    recheck: bool = True
    lookups: int | None = None
    job: str | None = None
    to_apply: bool = False

    def __post_init__(self) -> None:
        given = [each for each in (self.file, self.table, self.sql) if each is not None]
        if len(given) != 1:
            raise UsageError(
                "Name what to push: exactly one of FILE, --table NAME, --sql QUERY, --job NAME."
            )
        if self.database is not None and self.file is not None:
            raise UsageError("--database is for --table or --sql, not for a FILE.")
        if self.file is None and any((self.encoding, self.delimiter, self.sheet, self.skip_rows)):
            raise UsageError(
                "--encoding, --delimiter, --sheet and --skip-rows apply only to a FILE."
            )
        if self.source_name is not None and not self.source_name.strip():
            raise UsageError("--source is empty. Give the input a name, the same at each push.")
        if self.source_name is not None and self.job is not None:
            raise UsageError(f"--source: [push.{self.job}] is a source itself. Leave out --source.")
        self._check_activities()

    def _check_activities(self) -> None:
        """Raises UsageError for what is asked of prospects where rows become something else."""
        if self.to == PROSPECTS:
            if self.key is not None:
                raise UsageError(
                    "--key is for --to notes, tasks or meetings. Prospects are known by contacts."
                )
            return
        asked = {
            "--mode": self.mode != "upsert",
            "--clear-empty": self.clear_empty,
            "--allow-shared-contact": self.allow_shared_contact,
            "--fill-empty": self.fill_empty,
            "--restore": self.restore,
            "--no-recheck": not self.recheck,
            "--lookups": self.lookups is not None,
        }
        if given := [name for name, is_given in asked.items() if is_given]:
            raise UsageError(
                f"{', '.join(given)}: only for prospects. --to {self.to} creates {self.to}, and "
                "changes no one. Leave it out."
            )

    def key_column(self, rows: Input) -> str | None:
        """The column of `key`, as the input names it.

        Raises:
            InputError: there is no such column.
        """
        if self.key is None or self.key in rows.columns:
            return self.key
        by_name = {normalized(column): column for column in rows.columns}
        found = by_name.get(normalized(self.key))
        if found is None:
            reason = f"no column {self.key!r}, which --key names. Name a column of the input."
            raise InputError(location=rows.name, reason=reason)
        return found

    @property
    def title(self) -> str:
        """What people call the input: the file as they named it, the table, or just a query."""
        if self.file is not None:
            return "stdin" if self.file == "-" else self.file
        return f"table {self.table}" if self.table is not None else "query"

    @property
    def source(self) -> str:
        """The input's name, the same at each push: the job, the name that it was given, or else
        where the rows are."""
        if self.job is not None:
            return f"job {self.job}{self._becomes}"
        if self.source_name is not None:
            return f"source {self.source_name.strip()}{self._becomes}"
        return self.origin

    @property
    def _becomes(self) -> str:
        return "" if self.to == PROSPECTS else f", {self.to}"

    @property
    def notes(self) -> list[str]:
        """What people should know of how they named the input."""
        if self.file != "-" or self.job is not None or self.source_name is not None:
            return []
        return [_NAMELESS]

    @property
    def origin(self) -> str:
        """Where the rows are; for a query only a digest, since it may quote values."""
        if self.file is not None:
            sheet = "" if self.sheet is None else f", sheet {self.sheet}"
            name = "stdin" if self.file == "-" else f"file {Path(self.file).resolve()}{sheet}"
            return name + self._becomes
        where = "" if self.database is None else f" of {self.database.absolute()}"
        if self.table is not None:
            return f"table {self.table}{where}{self._becomes}"
        digest = hashlib.sha256((self.sql or "").encode()).hexdigest()[:16]
        return f"query {digest}{where}{self._becomes}"


def open_rejects(settings: Settings, request: PushRequest, rows: Input) -> RejectsFile:
    """The file for rows that weren't applied: next to the input or, if that folder isn't writable,
    in the state directory. Accounts that push the same input have a file each.

    Raises:
        UsageError: --rejects names the input itself, or its folder isn't writable.
    """
    path = rejects_path(settings, request)
    return RejectsFile(path, rows.columns, **_how(settings, request, rows))


def rejects_path(settings: Settings, request: PushRequest) -> Path:
    """Where the rejects of a request go; see `open_rejects`."""
    path = _wanted_rejects_path(settings, request)
    if not _may_be_written(path, request, "--rejects", is_asked=request.rejects is not None):
        inner = settings.state_path / "rejects"
        inner.mkdir(mode=0o700, exist_ok=True)
        path = inner / path.name
    return path


def open_results(settings: Settings, request: PushRequest, rows: Input) -> ResultsFile:
    """The file `--results` for every row with its outcome.

    Raises:
        UsageError: it is the input itself or the rejects file, or its folder isn't writable.
    """
    assert request.results is not None
    path = request.results
    _may_be_written(path, request, "--results", is_asked=True)
    if path.absolute() == _wanted_rejects_path(settings, request).absolute():
        raise UsageError(f"--results {path} is the rejects file as well. Choose another path.")
    return ResultsFile(path, rows.columns, **_how(settings, request, rows))


def _may_be_written(path: Path, request: PushRequest, option: str, *, is_asked: bool) -> bool:
    if request.file is not None and path.resolve() == Path(request.file).resolve():
        raise UsageError(f"{option} {path} would overwrite the input. Choose another path.")
    folder = path.absolute().parent
    if folder.is_dir() and os.access(folder, os.W_OK):
        return True
    if is_asked:
        raise UsageError(f"{option} {path}: that folder isn't writable. Choose another path.")
    return False


def _how(settings: Settings, request: PushRequest, rows: Input) -> dict[str, Any]:
    return {
        "source": request.source,
        "written": WrittenFiles(settings.state_dir / "rejects-written"),
        "omits_cells": rows.omits_cells,
        "delimiter": rows.delimiter,
    }


def _wanted_rejects_path(settings: Settings, request: PushRequest) -> Path:
    if request.rejects is not None:
        return request.rejects
    if request.file is not None and request.file != "-":
        path = Path(request.file)
        return path.with_name(next_rejects_name(path.name, settings.account))
    name = "stdin" if request.file else (request.table or "query").replace("/", "_")
    return Path(next_rejects_name(name, settings.account))


def job_request(settings: Settings, name: str) -> PushRequest:
    """`[push.<name>]` as a request.

    Raises:
        UnknownSetting: there is no such job.
        UsageError: it doesn't name exactly one source, or belongs to another account.
    """
    if name not in settings.push:
        like = nearest(name, settings.push)
        raise UnknownSetting(
            name=f"push.{name}",
            location="--job",
            nearest=like and f"push.{like}",
            advice="Name a job of the settings, or add [push.<name>] to them.",
        )
    job = settings.push[name]
    if name not in settings.jobs:
        raise UsageError(f"[push.{name}] is for one account only: add --account {job.account}.")
    shared = {each.name for each in fields(PushRequest)} & set(type(job).model_fields)
    asked: dict[str, Any] = {each: getattr(job, each) for each in shared}
    asked["file"] = None if job.file is None else str(job.file)
    return PushRequest(**asked, job=name)


def open_rows(settings: Settings, request: PushRequest) -> Input:
    """The rows of a request; close it after use.

    Raises:
        InputError: they can't be read.
        EncodingGuessed: the file's encoding has to be named first.
    """
    if request.file is not None:
        return _file_input(request, request.file)
    if request.database is None and not is_duckdb(settings):
        return _server_input(settings, request)
    path = request.database or settings.duckdb_path
    if request.database is None and not path.exists():
        raise InputError(
            location=str(path),
            reason="no pull has filled it yet. Pull first, or name another file with --database.",
        )
    from connector.upsert.inputs.table_reader import sql_input, table_input

    if request.table is not None:
        return table_input(path, request.table, schema=settings.dataset)
    return sql_input(path, request.sql or "", schema=settings.dataset)


def _file_input(request: PushRequest, file: str) -> Input:
    """The rows of a file. Only a dry run that isn't applied later accepts a guessed encoding that
    changes words: garbled names must not reach HiringCenter."""
    rows = open_input(
        file,
        encoding=request.encoding,
        delimiter=request.delimiter,
        sheet=request.sheet,
        skip_rows=request.skip_rows,
    )
    guess = rows.guess
    is_harmless = request.dry_run and not request.to_apply
    if guess is None or not guess.decides_words or is_harmless:
        return rows
    rows.close()
    raise EncodingGuessed(location=rows.name, codec=guess.codec, readings=guess.readings)


def _server_input(settings: Settings, request: PushRequest) -> Input:
    """A table or query of a destination that is a server, through dlt's SQL client."""
    from connector.upsert.inputs.table_reader import TableInput

    name = "query" if request.table is None else f"table {request.table}"

    @contextmanager
    def open_records() -> Iterator[Iterable[Sequence[Any]]]:
        with _server_cursor(settings, request, name) as cursor:
            yield _fetched(cursor)

    with _server_cursor(settings, request, name) as cursor:
        columns = [str(column) for column in _column_names(cursor)]
    description = f"{settings.destination}, {name}"
    return TableInput(open_records, name=name, columns=columns, description=description)


@contextmanager
def _server_cursor(settings: Settings, request: PushRequest, name: str) -> Iterator[Any]:
    from dlt.destinations.exceptions import DatabaseException

    from pipelines.destination.destination_kinds import server_pipeline
    from pipelines.destination.load_errors import load_failed

    with server_pipeline(settings) as pipeline, ExitStack() as stack:
        try:
            client: Any = stack.enter_context(cast(Any, pipeline.sql_client()))
            sql = request.sql or f"SELECT * FROM {_table(client, request.table or '')}"  # noqa: S608
            cursor = stack.enter_context(client.execute_query(sql))
        except DatabaseException as error:
            reason = f"{type(error).__name__}. Check the name, or the query."
            raise InputError(location=name, reason=reason) from None
        except Exception as error:  # noqa: BLE001 - a driver that is missing, a server that is down
            raise load_failed(error) from None
        yield cursor


def _fetched(cursor: Any) -> Iterator[Sequence[Any]]:
    """The rows of a result. Raises DestinationError where the connection breaks."""
    from pipelines.destination.load_errors import translated

    with translated():
        yield from chain.from_iterable(cursor.iter_fetch(_FETCHED_ROWS))


def _column_names(cursor: Any) -> Iterable[Any]:
    """The columns of a result, doubled ones too."""
    native = cursor.native_cursor
    is_of_sqlalchemy = hasattr(native, "keys")
    return native.keys() if is_of_sqlalchemy else (column[0] for column in native.description)


def _table(client: Any, table: str) -> str:
    schema, _, name = table.rpartition(".")
    if schema:
        return f"{client.escape_column_name(schema)}.{client.escape_column_name(name)}"
    return str(client.make_qualified_table_name(name))
