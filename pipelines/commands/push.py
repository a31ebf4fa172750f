"""`hiringcenter push`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.common import NEW_LEDGER, Options, common_options, run_command
from pipelines.commands.observed import observed
from pipelines.commands.output import Output
from pipelines.commands.result import Result

if TYPE_CHECKING:
    from connector.settings import Settings
    from pipelines.push.push_input import PushRequest

_EXAMPLE = """Example: hiringcenter push people.csv --dry-run

Example: hiringcenter push people.csv --encoding cp1250 --delimiter ';'

Example: hiringcenter push people.xlsx --sheet May
"""


class _Mode(StrEnum):
    UPSERT = "upsert"
    CREATE_ONLY = "create-only"
    UPDATE_ONLY = "update-only"


def register(app: typer.Typer) -> None:
    app.command(
        "push", short_help="Prospects from a file, table or query to the API", epilog=_EXAMPLE
    )(_push)


@common_options
def _push(
    options: Options,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="CSV, TSV, JSONL, Parquet, XLSX, .gz too; - = CSV on stdin."
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="A table of the destination.")
    ] = None,
    sql: Annotated[
        str | None, typer.Option("--sql", metavar="QUERY", help="The rows of one SELECT.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--database", metavar="F", help="Another DuckDB file for --table, --sql."),
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="NAME", help="[push.<name>] of the settings.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", metavar="NAME", help="Encoding of a text file, such as cp1252."),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", metavar="C", help="Of a CSV file: one character, or tab."),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option("--sheet", metavar="NAME", help="Sheet of a workbook, instead of the first."),
    ] = None,
    skip_rows: Annotated[
        int | None,
        typer.Option("--skip-rows", metavar="N", min=0, help="Lines of a FILE above its header."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="F", help="TOML: input column = API field."),
    ] = None,
    mode: Annotated[
        _Mode | None,
        typer.Option("--mode", help="Create and update (upsert), or only one of them."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be sent and how long that takes; send nothing."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Send unchanged and uncertain rows too.")
    ] = False,
    clear_empty: Annotated[
        bool, typer.Option("--clear-empty", help="An empty cell clears its field.")
    ] = False,
    ignore_unknown: Annotated[
        bool,
        typer.Option("--ignore-unknown", help="Leave out columns that match no field; lists them."),
    ] = False,
    max_changes: Annotated[
        int | None,
        typer.Option(
            "--max-changes", metavar="N", min=0, help="Send nothing if more rows than N would be."
        ),
    ] = None,
    allow_shared_contact: Annotated[
        bool,
        typer.Option(
            "--allow-shared-contact",
            help="Send rows that share an email or phone with another first name.",
        ),
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(
            "--rejects", metavar="F", help="Where rejected rows go (default: FILE.rejects.csv)."
        ),
    ] = None,
    new_ledger: Annotated[bool, NEW_LEDGER] = False,
) -> None:
    """Push prospects from a file, a table or a query to the API; every row is accounted for."""

    def work(settings: Settings, output: Output) -> Result:
        from dataclasses import replace

        from connector.errors import UsageError
        from pipelines.push.push_input import PushRequest, job_request

        given: dict[str, Any] = {
            "encoding": encoding,
            "delimiter": delimiter,
            "sheet": sheet,
            "skip_rows": skip_rows,
            "mapping": mapping,
            "mode": None if mode is None else mode.value,
            "max_changes": max_changes,
            "rejects": rejects,
            "dry_run": dry_run,
            "force": force,
            "clear_empty": clear_empty,
            "ignore_unknown": ignore_unknown,
            "new_ledger": new_ledger,
            "allow_shared_contact": allow_shared_contact or None,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if options.all_accounts and file == "-":
            raise UsageError("Stdin can be read once: save it as a FILE to push to each account.")
        if options.all_accounts and rejects is not None:
            changes["rejects"] = rejects.with_stem(f"{rejects.stem}-{settings.account}")
        if job is None:
            request = PushRequest(file=file, table=table, sql=sql, database=database)
        elif any(each is not None for each in (file, table, sql, database)):
            raise UsageError("--job names its own source: leave out FILE, --table and --sql.")
        else:
            request = job_request(settings, job)
        return run_push(settings, replace(request, **changes), output)

    run_command(options, observed("push", work))


def run_push(settings: Settings, request: PushRequest, output: Output) -> Result:
    """One push as a command's result."""
    from pipelines.progress import progress_of
    from pipelines.push.push_report import push_events, push_lines
    from pipelines.push.push_run import push

    report = push(settings, request, progress_of("push", bar=output.shows_progress))
    return Result(
        summary=report.summary,
        lines=push_lines(report),
        exit_code=report.exit_code,
        events=push_events(report),
        is_answer=request.dry_run,
        error=report.error,
    )
