"""`hiringcenter runs`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.result import Result
from pipelines.wording import elapsed, plural, utc

if TYPE_CHECKING:
    from connector.history import RunRecord
    from connector.settings import Settings
    from connector.upsert.outbox.receipts import RowResult


_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


def register(app: typer.Typer) -> None:
    app.command(
        "runs",
        short_help="What ran, and how it ended",
        epilog="Example: hiringcenter runs --last 50",
    )(_runs)


@common_options
def _runs(
    options: Options,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN_ID", help="One run's details.")] = (
        None
    ),
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, help="How many, newest first.")
    ] = 20,
) -> None:
    """The run history; with RUN_ID, one run's summary, rejects and warnings."""
    from connector.errors import UsageError

    def work(settings: Settings, _output: object) -> Result:
        if run_id is None:
            return recent_runs(settings, last)
        if options.all_accounts:
            raise UsageError("A run is of one account: leave out --all-accounts, or RUN_ID.")
        return one_run(settings, run_id)

    run_command(options, work)


def recent_runs(settings: Settings, last: int) -> Result:
    """The last runs, newest first: of the account in use, or else all that the ledger knows."""
    from pipelines.destination.places import destination_label
    from pipelines.ledger import open_ledger

    label = destination_label(settings) if settings.account else None
    with open_ledger(settings) as ledger:
        records = ledger.history.recent(last, label)
    if not records:
        none = ["No runs yet. Start: hiringcenter pull"]
        return Result({"status": "ok", "runs": []}, lines=none, is_answer=True)
    return Result(
        summary={"status": "ok", "runs": [_facts(record) for record in records]},
        lines=[_table(records)],
        is_answer=True,
    )


def one_run(settings: Settings, run_id: str) -> Result:
    """One run with everything that is known about it. run_id: whole, or as much of its beginning as
    tells it apart.

    Raises:
        UsageError: there is no run of that id, or there are several.
    """
    from connector.errors import UsageError
    from pipelines.ledger import open_ledger
    from pipelines.push.push_report import grouped, row_line

    with open_ledger(settings) as ledger:
        found = ledger.history.find(run_id)
    if not found:
        raise UsageError(f"There is no run {run_id!r}. `hiringcenter runs` lists them.")
    if len(found) > 1:
        ids = ", ".join(each.run_id for each in found)
        raise UsageError(f"Several runs begin with {run_id!r}: {ids}. Add a letter or two.")
    record = found[0]
    facts = _facts(record)
    lines = [f"{name}: {_text(value)}" for name, value in facts.items() if value is not None]
    results = _noteworthy(settings, record.run_id) if record.kind == "push" else []
    lines += [row_line(*group) for group in grouped(results)]
    noteworthy = [result._asdict() for result in results]
    summary = {**facts, "status": record.status, "noteworthy": noteworthy}
    return Result(summary=summary, lines=lines, is_answer=True)


def _noteworthy(settings: Settings, run_id: str) -> list[RowResult]:
    """Rejects, failures and warnings of a push, by row."""
    from connector.upsert.outbox.receipts import ResultStore
    from pipelines.push.push_outbox import outbox_database
    from pipelines.push.push_report import NOTEWORTHY_MAX

    database = outbox_database(settings)
    try:
        return ResultStore(database, scope=0).noteworthy(run_id, NOTEWORTHY_MAX)
    finally:
        database.close()


def _facts(record: RunRecord) -> dict[str, Any]:
    return {
        **record.summary,
        "run_id": record.run_id,
        "kind": record.kind,
        "destination": record.label,
        "status": record.status,
        "started_at": utc(record.started_ms),
        "finished_at": utc(record.finished_ms),
        "error": record.error,
    }


def _text(value: Any, indent: str = "\n  ") -> str:
    if isinstance(value, dict):
        parts = (f"{indent}{name}: {_text(each, indent + '  ')}" for name, each in value.items())
        return "".join(parts)
    return str(value)


def _table(records: list[RunRecord]) -> Any:
    """At 80 columns the ids are whole, and what there is no room for is wrapped. Of an error, the
    first sentence: `runs RUN_ID` has all of it."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "kind", "status", "took", "requests"):
        right = name in ("took", "requests")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("what", overflow="fold")
    for record in records:
        took = (
            ""
            if record.finished_ms is None
            else elapsed((record.finished_ms - record.started_ms) / 1000)
        )
        table.add_row(
            record.run_id, record.kind, record.status, took,
            str(record.summary.get("requests", "")), _what(record),
        )  # fmt: skip
    return table


def _what(record: RunRecord) -> str:
    if record.kind == "push":
        from pipelines.push.push_report import outcomes_in_words

        named = record.summary.get("job") or record.summary.get("source")
        facts = ": ".join(part for part in (named, outcomes_in_words(record.summary)) if part)
    else:
        lists = record.summary.get("resources", {}).values()
        written = sum(each["rows_written"] for each in lists)
        deleted = sum(each["rows_deleted"] for each in lists)
        facts = f"{plural(written, 'row')} written, {deleted:,} deleted"
    if record.status == "stopped":  # by a signal, whose message says less than the counts
        return facts
    error = _SENTENCE.split(record.error or "", maxsplit=1)[0]
    if error.startswith(f"{facts}:"):
        return error
    return " · ".join(part for part in (facts, error) if part)
