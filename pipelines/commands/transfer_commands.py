"""The commands that move rows, `pull` and `push` say, or remove them; and `verify`, which compares
them."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connector.errors import UsageError, did_you_mean
from pipelines.commands.invocation import (
    ALREADY_RUNNING,
    Output,
    Result,
    argument,
    command,
    flag,
    guarded,
    option,
    status_of_exit,
    worst,
)
from pipelines.running.progress import parse_duration_s, plural, requests_in_words, text_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from connector.settings import Settings
    from pipelines.pull.forgetting import ForgetReport, ForgetRequest
    from pipelines.pull.pull_run import PullReport, Wanted
    from pipelines.push.push_input import PushRequest
    from pipelines.push.push_report import PushReport

_LOST_OUTBOX = "If the outbox was lost: start a new one, and look people up first."
_NEW_LEDGER = flag("--new-ledger", _LOST_OUTBOX)
_WHAT, _HOW = "What is pushed (or FILE)", "How it is read"
_SENT, _ASKED, _WRITTEN = "What is sent", "What is looked up first", "Files that are written"
_PUSH_EXAMPLES = """hiringcenter push people.csv --dry-run

hiringcenter push people.csv --encoding cp1250 --delimiter ';'

hiringcenter push people.xlsx --sheet May

hiringcenter push calls.csv --to notes --results calls-results.csv"""
_PLAN_EXAMPLES = """hiringcenter plan people.csv --html people.html

hiringcenter plan people.csv --out people.hcplan"""


@command(
    "pull",
    short_help="Load data from the API into the destination",
    example="hiringcenter pull notes tasks --full",
    observe=True,
)
def _pull(
    settings: Settings,
    output: Output,
    resources: list[str] | None = argument("RESOURCE"),
    full: bool = flag("--full", "Scan each list completely, and find deletions."),
    since: str | None = option(
        "--since DATE", "Read back to this date, once; later pulls are planned as before."
    ),
    reset: bool = flag("--reset", "Forget what earlier scans learned, and read everything again."),
    take_over: bool = flag(
        "--take-over",
        "Replace the copy of another installation, or the rows of another account.",
    ),
) -> Result:
    """Load data from the API into the destination: each RESOURCE that is named (prospects, notes,
    tasks, meetings), or all four."""
    from pipelines.pull.pull_run import Wanted

    names = _resources(resources)
    if since is not None and (full or reset):
        raise UsageError("--since can't be combined with --full or --reset.")
    wanted = Wanted(
        names,
        full=full,
        since_ms=None if since is None else _since_ms(since),
        reset=reset,
        take_over=take_over,
    )
    return run_pull(settings, wanted, output)


def _resources(named: list[str] | None) -> tuple[str, ...]:
    """The resources that are named, or all, in their usual order."""
    from connector.source import RESOURCES

    for name in named or ():
        if name not in RESOURCES:
            hint = did_you_mean(name, RESOURCES)
            raise UsageError(f"There is no resource {name!r}.{hint} Known: {', '.join(RESOURCES)}.")
    return tuple(name for name in RESOURCES if not named or name in named)


def _since_ms(text: str) -> int:
    from connector.source.fields import since_ms

    try:
        return since_ms(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r} isn't a date. Write 2026-03-01 or 2026-03-01T12:00:00+00:00."
        ) from None


def run_pull(settings: Settings, wanted: Wanted, output: Output) -> Result:
    """One pull as a command's result."""
    from pipelines.pull.pull_run import pull

    report = pull(settings, wanted, output.progress_of("pull"))
    lines = [] if output.is_quiet else pull_lines(report, settings)  # a table imports rich
    return Result.of(report, lines, events=pull_events(report))


@command(
    "verify",
    short_help="Compare a random sample of rows with the API",
    example="hiringcenter verify --requests 300 --max-wrong 1%",
    observe=True,
)
def _verify(
    settings: Settings,
    output: Output,
    resources: list[str] | None = argument("RESOURCE"),
    requests: int = option(
        "--requests N", "How many rows to look up.", default=300, min=1, max=100_000
    ),
    max_wrong: str = option(
        "--max-wrong SHARE", "Exit 3 if more than this share may be wrong.", default="1%"
    ),
) -> Result:
    """Look up random rows of each RESOURCE (default: all four) by id, compare them field by field
    with the destination, and bound the share of wrong rows. Writes nothing."""
    from pipelines.pull.sampling import parse_share, verify_lines
    from pipelines.pull.verification import VerifyRequest, verify

    wanted = VerifyRequest(_resources(resources), requests, parse_share(max_wrong))
    report = verify(settings, wanted, output.progress_of("verify"))
    counts = ("run_id", "verdict", "compared", "wrong", "at_most", "late", "not_checked")
    ended = {name: report.summary[name] for name in counts}
    return Result.of(report, verify_lines(report.summary), events=[("verify.ended", ended)])


def _push_request(
    settings: Settings,
    output: Output,
    file: str | None = argument("FILE"),
    table: str | None = option("--table NAME", "A table of the destination.", group=_WHAT),
    sql: str | None = option("--sql QUERY", "The rows of one SELECT.", group=_WHAT),
    database: Path | None = option(
        "--database F", "DuckDB file for --table or --sql.", group=_WHAT
    ),
    job: str | None = option(
        "--job NAME", "The push job [push.NAME] of the settings.", group=_WHAT
    ),
    source: str | None = option(
        "--source NAME", "Name of an input whose path changes each time.", group=_WHAT
    ),
    to: Literal["prospects", "notes", "tasks", "meetings"] | None = option(
        "--to KIND",
        "What rows become: prospects (default), or notes, tasks or meetings of existing prospects.",
        group=_WHAT,
    ),
    key: str | None = option(
        "--key COLUMN", "With --to: the column that identifies a row.", group=_WHAT
    ),
    encoding: str | None = option(
        "--encoding NAME", "Encoding of a text file, such as cp1252.", group=_HOW
    ),
    delimiter: str | None = option("--delimiter C", "One character, or tab.", group=_HOW),
    sheet: str | None = option("--sheet NAME", "Default: the first.", group=_HOW),
    skip_rows: int | None = option("--skip-rows N", "Lines above the header.", min=0, group=_HOW),
    mapping: Path | None = option(
        "--mapping F", "TOML file that maps columns to API fields.", group=_HOW
    ),
    ignore_unknown: bool = flag(
        "--ignore-unknown", "Leave out columns that match no field.", group=_HOW
    ),
    clear_empty: bool = flag("--clear-empty", "Empty cells clear their fields.", group=_HOW),
    mode: Literal["upsert", "create-only", "update-only"] | None = option(
        "--mode MODE", "upsert (default), create-only or update-only.", group=_SENT
    ),
    fill_empty: bool = flag(
        "--fill-empty", "Only fill fields that are empty in HiringCenter.", group=_SENT
    ),
    restore: bool = flag(
        "--restore", "Also send fields edited in HiringCenter since.", group=_SENT
    ),
    force: bool = flag("--force", "Send unchanged and uncertain rows too.", group=_SENT),
    allow_shared_contact: bool = flag(
        "--allow-shared-contact", "Also rows whose email or phone is another person's.", group=_SENT
    ),
    max_changes: int | None = option(
        "--max-changes N", "Send nothing if more rows would be sent.", min=0, group=_SENT
    ),
    dry_run: bool = flag("--dry-run", "Show what would be sent; send nothing.", group=_SENT),
    no_recheck: bool = flag("--no-recheck", "Look no one up; trust the last pull.", group=_ASKED),
    lookups: int | None = option(
        "--lookups N",
        "Look up at most N people, for empty fields or rows without names (default: 500).",
        min=0,
        group=_ASKED,
    ),
    new_ledger: bool = flag("--new-ledger", _LOST_OUTBOX, group=_ASKED),
    results: Path | None = option("--results F", "Every row with its outcome.", group=_WRITTEN),
    rejects: Path | None = option(
        "--rejects F",
        "Rejected rows (default: FILE.rejects.csv; none if nothing is sent).",
        group=_WRITTEN,
    ),
) -> PushRequest:
    """What is asked for: the options of a push, and of what is like one."""
    from pipelines.push.push_input import PushRequest, job_request

    given: dict[str, Any] = {
        "encoding": encoding, "delimiter": delimiter, "sheet": sheet, "skip_rows": skip_rows,
        "mapping": mapping, "mode": mode, "max_changes": max_changes, "rejects": rejects,
        "dry_run": dry_run, "force": force, "clear_empty": clear_empty, "new_ledger": new_ledger,
        "ignore_unknown": ignore_unknown, "allow_shared_contact": allow_shared_contact or None,
        "fill_empty": fill_empty or None, "restore": restore or None,
        "recheck": False if no_recheck else None, "source_name": source, "lookups": lookups,
        "results": results, "to": to, "key": key,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    if output.all_accounts and file == "-":
        raise UsageError(
            "Stdin can be read only once: save it as a FILE to push it to each account."
        )
    for name in ("rejects", "results"):
        if name in changes:
            changes[name] = _of_account(changes[name], settings, output)
    if job is None:
        request = PushRequest(file=file, table=table, sql=sql, database=database)
    elif any(each is not None for each in (file, table, sql, database)):
        raise UsageError("--job names its own source: leave out FILE, --table and --sql.")
    else:
        request = job_request(settings, job)
    return replace(request, **changes)


@command(
    "push",
    short_help="Send prospects from a file, table or query to the API",
    example=_PUSH_EXAMPLES,
    observe=True,
    options_of=_push_request,
)
def _push(settings: Settings, output: Output, **given: Any) -> Result:
    """Send prospects to the API from FILE (CSV, TSV, JSONL, Parquet or XLSX, .gz too; - for CSV on
    stdin), a table or a query; every row is accounted for."""
    return run_push(settings, _push_request(settings, output, **given), output)


def run_push(settings: Settings, request: PushRequest, output: Output) -> Result:
    """One push as a command's result."""
    from pipelines.push.push_run import push

    report = push(settings, request, output.progress_of("push"))
    return _sent(report, is_answer=request.dry_run)


def _sent(report: PushReport, *, is_answer: bool) -> Result:
    """What a run that sends came to, as a command's result."""
    from pipelines.push.push_report import push_events, push_lines

    events = push_events(report)
    return Result.of(report, push_lines(report), events=events, is_answer=is_answer)


@command(
    "plan",
    short_help="Show what a push would change, field by field; sends nothing",
    example=_PLAN_EXAMPLES,
    options_of=_push_request,
    fixed={"dry_run": True, "max_changes": None},
)
def _plan(
    settings: Settings,
    output: Output,
    out: Path | None = option("--out F", "F.hcplan: `apply` sends exactly this.", group=_WRITTEN),
    html: Path | None = option("--html F", "A page for people: searchable.", group=_WRITTEN),
    changes: Path | None = option("--changes F", "A JSON line for each row.", group=_WRITTEN),
    **given: Any,
) -> Result:
    """Show what a push of FILE, a table or a query would change, row by row and field by field,
    compared with the last pull and with what was sent. Sends no requests."""
    from pipelines.push.plan_view import PlanFiles
    from pipelines.push.push_run import plan_push
    from pipelines.report.report_page import open_plan_page, render_plan

    request = _push_request(settings, output, **given)
    paths = (path and _of_account(path, settings, output) for path in (out, changes, html))
    files = PlanFiles(*paths)
    with ExitStack() as stack:
        page = stack.enter_context(open_plan_page(files.html)) if files.html else None
        progress = output.progress_of("plan")
        report = plan_push(settings, request, files, progress)
        if page is not None and report.view is not None and report.error is None:
            shown = render_plan(
                report.summary,
                report.view.page_rows,
                undo=report.view.undo_lines(),
                rows_in_all=report.view.worth_a_look,
                account=settings.account,
                now_s=time.time(),
            )
            page.write(shown.encode())
            page.finish()
    return _sent(report, is_answer=True)


def _of_account(path: Path, settings: Settings, output: Output) -> Path:
    """`path`; with `--all-accounts`, each account's own."""
    return path.with_stem(f"{path.stem}-{settings.account}") if output.all_accounts else path


@command(
    "apply",
    short_help="Send exactly what a plan file says",
    example="hiringcenter apply people.hcplan",
    observe=True,
)
def _apply(
    settings: Settings,
    output: Output,
    plan: Path | None = argument("F.hcplan"),
    max_age: str | None = option(
        "--max-age AGE", "Refuse a plan that is older: 90m, 2h, 7d (default: 7d)."
    ),
    rejects: Path | None = option(
        "--rejects F", "File for rows in conflict (default: F.hcplan.rejects.csv)."
    ),
) -> Result:
    """Send exactly what the plan F.hcplan says. People who have changed since it was made are
    conflicts: named, and left alone."""
    from pipelines.push.apply_and_undo import MAX_AGE_S, ApplyRequest, apply

    if plan is None:
        raise UsageError("Name the plan: hiringcenter apply F.hcplan. Make one with `plan --out`.")
    max_age_s = MAX_AGE_S if max_age is None else parse_duration_s(max_age)
    report = apply(
        settings,
        ApplyRequest(plan, max_age_s, rejects),
        output.progress_of("apply"),
    )
    return _sent(report, is_answer=False)


@command(
    "undo",
    short_help="Put back what a push has changed",
    example="hiringcenter undo 20261122T011500-3f9c2a --dry-run",
    observe=True,
)
def _undo(
    settings: Settings,
    output: Output,
    run_id: str | None = argument("RUN_ID"),
    dry_run: bool = flag(
        "--dry-run", "Count what would be put back, list what can't be; send nothing."
    ),
    force: bool = flag(
        "--force",
        "Put back what is only known from an older copy too, and look again at people left alone.",
    ),
) -> Result:
    """Put back what the run RUN_ID (a push, an apply or an undo) has changed, unless it was
    edited since. What can't be put back is listed."""
    from pipelines.push.apply_and_undo import UndoRequest, undo

    if run_id is None:
        raise UsageError("Name the run to undo: hiringcenter undo RUN_ID. See `hiringcenter runs`.")
    report = undo(
        settings,
        UndoRequest(run_id, dry_run=dry_run, force=force),
        output.progress_of("undo"),
        on_planned=lambda line: None if output.is_quiet else output.text([line]),
    )
    return _sent(report, is_answer=dry_run)


@command(
    "forget",
    short_help="Remove a person everywhere here, and keep them out",
    example="hiringcenter forget ann@example.com --dry-run",
)
def _forget(
    settings: Settings,
    output: Output,  # noqa: ARG001 - every command has it
    who: str | None = argument("ID|EMAIL"),
    dry_run: bool = flag("--dry-run", "Count what would be removed, by place; change nothing."),
    remember_again: bool = flag(
        "--remember-again", "Stop keeping them out: they land with the next full pull."
    ),
) -> Result:
    """Remove the prospect with this ID, or all with this EMAIL, and their notes, tasks and meetings
    from the tables, the ledger and every file here, and keep them from coming back."""
    from pipelines.pull.forgetting import ForgetRequest, forget

    if who is None:
        raise UsageError("Name the person: hiringcenter forget ID, or hiringcenter forget EMAIL.")
    request = ForgetRequest(who, dry_run=dry_run, remember_again=remember_again)
    report = forget(settings, request)
    return Result.of(report, forget_lines(report, request), is_answer=True)


@command(
    "sync",
    short_help="Pull, then run every push job of the settings",
    example="hiringcenter sync --json",
    observe=True,
)
def _sync(settings: Settings, output: Output, new_ledger: bool = _NEW_LEDGER) -> Result:
    """Pull everything, then run every push job of the settings; a part that fails doesn't stop
    the others."""
    from connector.logs import redact
    from connector.source import RESOURCES
    from pipelines.pull.pull_run import Wanted

    assert settings.key  # a missing key is one error, not one per part
    parts = {"pull": guarded(lambda: run_pull(settings, Wanted(RESOURCES), output))}
    for name in settings.jobs:
        if any(part.exit_code > 128 for part in parts.values()):
            break
        parts[f"push {name}"] = guarded(partial(_push_job, settings, name, output, new_ledger))
    code = worst([part.exit_code for part in parts.values()])
    worst_part = next((name for name, part in parts.items() if part.exit_code == code), "")
    lines: list[Any] = []
    events: list[tuple[str, dict[str, Any]]] = []
    for name, part in parts.items():
        lines += [f"{name}:", *part.lines]
        own = [(event, {"part": name, **facts}) for event, facts in part.events]
        if part.error and name != worst_part:  # that one's error is the result's
            message = redact(str(part.error))
            lines.append(f"Error: {message}")
            own.append(("sync.failed", {"part": name, "message": message}))
        if part.exit_code not in (0, ALREADY_RUNNING):
            events += own
    pull, *pushes = parts.values()
    return Result(
        summary={
            "status": status_of_exit(code),
            "pull": pull.summary,
            "push": dict(zip(settings.jobs, (part.summary for part in pushes), strict=False)),
        },
        lines=lines,
        exit_code=code,
        events=events,
        error=parts[worst_part].error,
    )


def _push_job(settings: Settings, name: str, output: Output, new_ledger: bool) -> Result:
    from pipelines.push.push_input import job_request

    return run_push(settings, replace(job_request(settings, name), new_ledger=new_ledger), output)


# --- what a pull came to, for people -----------------------------------------------------------


def pull_lines(report: PullReport, settings: Settings) -> list[Any]:
    """A table of what was read, written and deleted, then notes."""
    resources = report.summary["resources"].values()
    is_empty = report.error is not None and not any(facts["rows_read"] for facts in resources)
    lines: list[Any] = [_pull_table(report)] if resources and not is_empty else []
    return [*lines, *_pull_notes(report, settings)]


def pull_events(report: PullReport) -> list[tuple[str, dict[str, Any]]]:
    """Log events of a pull that needs a look: its counts, and lists that aren't complete."""
    summary = report.summary
    lists = summary.get("resources", {})
    events = [
        ("pull.incomplete", {"resource": name, "why": facts["why_incomplete"]})
        for name, facts in lists.items()
        if facts.get("why_incomplete")
    ]
    if any(facts["rows_read"] for facts in lists.values()):
        ended = {"status": summary["status"], "requests": summary["requests"]}
        events.insert(0, ("pull.ended", ended))
    return [(name, {"run_id": summary.get("run_id"), **facts}) for name, facts in events]


def _pull_table(report: PullReport) -> Table:
    rows = []
    for name, facts in report.summary["resources"].items():
        scan = f"{facts['scan']} (unproven)" if facts["complete"] is False else facts["scan"]
        counts = [facts[count] for count in ("rows_read", "rows_written", "rows_deleted")]
        counts.append(report.live_rows.get(name))
        rows.append([name, scan, *("" if each is None else f"{each:,}" for each in counts)])
    titles = ("read", "written", "deleted", "rows now")
    return text_table(["resource", "scan", *titles], rows, right=titles)


def _pull_notes(report: PullReport, settings: Settings) -> Iterator[str]:
    for resource, facts in report.summary["resources"].items():
        if "why_incomplete" in facts:
            yield f"{resource}: not proven complete: {facts['why_incomplete']}."
        if left_out := facts.get("rows_forgotten"):
            yield (
                f"{resource}: {plural(left_out, 'row')} about people who were forgotten here left "
                "out; they count as listed."
            )
        if resource in report.doubts:
            yield _what_follows(resource, is_new=report.doubts[resource])
    for resource, counts in report.warnings.items():
        for what, times in counts.items():
            yield f"Warning: {resource}: {what} ({times}x)"
    yield requests_in_words(report.summary)
    yield from _copy_notes(report, settings)


def _what_follows(resource: str, *, is_new: bool) -> str:
    if is_new:
        return (
            f"{resource}: what was read is published, and nothing was flagged deleted. If this "
            "persists, later pulls don't verify it again, and prove deletions one by one."
        )
    return (
        f"{resource}: this was the case at the last pull too; deletions are proven one by one (at "
        "most 50 look-ups per pull)."
    )


def _copy_notes(report: PullReport, settings: Settings) -> Iterator[str]:
    from pipelines.destination.identity import snapshot_facts

    copy = snapshot_facts(settings)
    if copy is None:
        return
    if report.published:
        yield f"A new copy is at {copy.path}."
    elif not report.is_visible:
        yield f"{copy.still()}. The next pull publishes what has landed since."
    elif report.error is None:
        yield f"Nothing changed; the copy is at {copy.path}."


# --- the receipt of a forget ----------------------------------------------------------------------

_PLACES = {
    "prospects": "prospects", "notes": "notes", "tasks": "tasks", "meetings": "meetings",
    "history": "earlier versions of these", "malformed": "malformed records",
    "results": "results of pushes", "outbox": "writes in the outbox",
    "before_images": "what undo kept", "receipts": "what pushes have settled",
    "mentions": "mentions in texts about others", "inbox": "people named by events",
    "packages": "load packages", "put_aside": "in files that were put aside",
}  # fmt: skip


def forget_lines(report: ForgetReport, request: ForgetRequest) -> list[Any]:
    """The receipt: whom it is about, what was removed where, and what isn't reached."""
    if request.remember_again:
        return [_lifted(report, request)]
    if report.error is not None and not report.people and not report.removed.total():
        return []  # it ended before anything was found
    would = "would be removed" if request.dry_run else "removed"
    people = ", ".join(report.people)
    if report.people:
        lines = [f"{plural(len(report.people), 'person')}: {people}"]
    else:
        lines = ["No prospect with this email is known here."]
    found = [(_PLACES[place], count) for place, count in report.removed.items() if count]
    width = max((len(place) for place, _ in found), default=0)
    lines += [f"{would.capitalize()}:"] if found else [f"Nothing {would}: nothing of them is here."]
    lines += [f"  {place.ljust(width)}  {count:>7,}" for place, count in found]
    if report.left:
        lines += ["Left to do:", *(f"  - {each}" for each in report.left)]
    lines += ["Not reached:", *(f"  - {each}" for each in report.not_reached)]
    if report.error is None and not request.dry_run:
        lines.append(
            "They don't land and aren't sent any more. `hiringcenter forget "
            f"{request.who} --remember-again` lifts that."
        )
    return lines


def _lifted(report: ForgetReport, request: ForgetRequest) -> str:
    if not report.lifted:
        return f"{request.who} isn't on the list of people who were forgotten: nothing to lift."
    if request.dry_run:
        return f"{request.who} is on the list of people who were forgotten; this would lift it."
    return (
        f"{plural(report.lifted, 'person')} may land and be sent again: `hiringcenter pull --full` "
        "brings them."
    )
