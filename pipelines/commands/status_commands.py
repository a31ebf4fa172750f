"""`hiringcenter check`, `status`, `runs`, `columns`, `report` and `budget`: they only read."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.clock import wall_ms
from connector.errors import ConnectorError, UsageError, did_you_mean
from pipelines.commands.invocation import Output, Result, argument, command, flag, option, worst
from pipelines.running.progress import duration, elapsed, parse_duration_s, plural, text_table, utc

if TYPE_CHECKING:
    from connector.budget import Lane
    from connector.budget.ledger_view import BudgetState, Eta, WindowReport
    from connector.runs import Freshness, RunRecord
    from connector.settings import Settings
    from connector.upsert.outbox.receipts import RowResult
    from pipelines.destination.identity import SnapshotFacts

_CLOCK_STEP_S = 60.0
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
_REPORT = Path("hiringcenter-report.html")


# --- check ----------------------------------------------------------------------------------


@command(
    "check",
    short_help="Check key, destination, budget, outbox and clock",
    example="hiringcenter check --account east",
)
def _check(settings: Settings, _output: Output) -> Result:
    """Check that everything is ready: key, permissions, destination, budget, outbox and clock.
    Each line says ok, or what to do."""
    from pipelines.running.checks import run_checks

    checks = run_checks(settings)
    bad = [check for check in checks if not check.ok]
    facts = [
        {"name": check.name, "ok": check.ok, "detail": check.detail, **check.facts}
        for check in checks
    ]
    return Result(
        summary={"status": "failed" if bad else "ok", "checks": facts},
        lines=[
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}" for check in checks
        ],
        exit_code=worst([check.exit_code for check in bad]),
        events=[("check.failed", {"check": check.name, "detail": check.detail}) for check in bad],
    )


# --- status ---------------------------------------------------------------------------------


@command(
    "status",
    short_help="Show how old the data is, per resource",
    example="hiringcenter status --max-age 2h",
    observe=True,
)
def _status(
    settings: Settings,
    _output: Output,
    max_age: str | None = option("--max-age AGE", "Exit 1 if anything is older: 90m, 2h, 1d."),
) -> Result:
    """Show the rows, last pull, last complete scan and age of each resource, as readers see it.
    Contacts neither the API nor the destination."""
    limit_s = settings.alerts.max_age_s if max_age is None else parse_duration_s(max_age)
    return status(settings, limit_s)


def status(settings: Settings, max_age_s: float | None) -> Result:
    """How fresh the data is that readers see. max_age_s: if older, or never pulled, exit code 1.

    Raises:
        MissingKey: there are several accounts, and none was chosen.
    """
    from connector.source import RESOURCES
    from pipelines.destination.identity import snapshot_facts
    from pipelines.running.session import open_ledger

    settings.check_account()
    copy = snapshot_facts(settings)
    with open_ledger(settings) as ledger:
        landed, visible = ledger.freshness_of(settings)
    now_ms = wall_ms()
    facts = {
        name: _age_facts(visible.get(name), landed.get(name), now_ms, max_age_s)
        for name in RESOURCES
    }
    stale = [name for name, fact in facts.items() if fact["stale"]]
    summary = {"status": "stale" if stale else "ok", "resources": facts}
    lines: list[Any] = [_age_table(facts)]
    for name, fact in facts.items():
        if why := fact.get("why_incomplete"):
            lines.append(f"{name}: the last full scan isn't proven complete: {why}.")
    lines += _copy_lines(facts, copy)
    if (sandbox := _sandbox_copy(settings)) is not None:
        lines.append(f"No API key is configured. What `make sync` pulled is at {sandbox}.")
    if stale:
        names = ", ".join(stale)
        lines.append(f"Too old: {names}. Run `hiringcenter pull`; see `hiringcenter runs` for why.")
    seen = {name: {each: facts[name][each] for each in ("last_pull", "age_s")} for name in stale}
    return Result(
        summary=summary if copy is None else summary | {"copy": copy.facts()},
        lines=lines,
        exit_code=1 if stale else 0,
        events=[("status.stale", {"resource": name, **fact}) for name, fact in seen.items()],
    )


def _age_facts(
    fresh: Freshness | None, landed: Freshness | None, now_ms: int, max_age_s: float | None
) -> dict[str, Any]:
    """fresh: what readers see. landed: what the destination has, which may be newer."""
    names = ("rows", "last_pull", "last_complete_scan", "age_s", "scan", "reason", "complete")
    facts: dict[str, Any] = dict.fromkeys(names)
    age_s = float("inf")
    if fresh is not None:
        facts |= {name: getattr(fresh, name) for name in ("rows", "scan", "reason", "complete")}
        if fresh.why_incomplete is not None:
            facts["why_incomplete"] = fresh.why_incomplete
        if fresh.last_pull_ms:  # else a first scan that isn't finished yet
            age_s = (now_ms - fresh.last_pull_ms) / 1000
            facts["last_pull"] = utc(fresh.last_pull_ms)
            facts["last_complete_scan"] = utc(fresh.last_complete_ms)
            facts["age_s"] = round(max(0.0, age_s))
    # a pull in the future only shows that a clock was wrong
    facts["stale"] = max_age_s is not None and not -_CLOCK_STEP_S <= age_s <= max_age_s
    is_newer = landed is not None and landed != fresh
    facts["unpublished_pull"] = utc(landed.last_pull_ms or None) if landed and is_newer else None
    return facts


def _age_table(facts: dict[str, dict[str, Any]]) -> Any:
    rows = []
    for name, fact in facts.items():
        age = ""
        if fact["age_s"] is not None:
            age = duration(fact["age_s"]) + (" (too old)" if fact["stale"] else "")
        count = "" if fact["rows"] is None else f"{fact['rows']:,}"
        pulled, scanned = (fact[each] or "never" for each in ("last_pull", "last_complete_scan"))
        rows.append((name, count, pulled, scanned, age))
    titles = ("resource", "rows", "last pull", "last complete scan", "age")
    return text_table(titles, rows, right=["rows"])


def _copy_lines(facts: dict[str, dict[str, Any]], copy: SnapshotFacts | None) -> list[str]:
    """When the copy was published, and what has landed since."""
    if copy is None:
        return []
    waiting = [name for name, fact in facts.items() if fact["unpublished_pull"]]
    if waiting:
        since = f"; it lacks what was pulled since then ({', '.join(waiting)})"
        return [f"{copy.still()}{since if copy.made_at else ''}. Run `hiringcenter pull`."]
    if copy.made_at is None:
        return [f"{copy.still()}. Run `hiringcenter pull`."]
    return [f"The copy at {copy.path} was published {copy.facts()['published_at']}."]


SANDBOX_COPY = Path("data/sandbox.duckdb")
"""Where `make sync` without a key publishes what it pulls from the sandbox."""


def _sandbox_copy(settings: Settings) -> Path | None:
    """That copy, where it is the only one: without a key, and before the first pull."""
    path = settings.project.folder / SANDBOX_COPY
    is_keyless = settings.api_key is None and not settings.accounts
    is_it = is_keyless and not settings.duckdb_path.exists() and path.exists()
    return path if is_it else None


# --- runs -----------------------------------------------------------------------------------


@command(
    "runs", short_help="List past runs and their outcomes", example="hiringcenter runs --last 50"
)
def _runs(
    settings: Settings,
    output: Output,
    run_id: str | None = argument("RUN_ID"),
    last: int = option("--last N", "How many runs to list, newest first.", default=20, min=1),
) -> Result:
    """List past runs; with RUN_ID, show one run's summary, rejects and warnings."""
    if run_id is None:
        return recent_runs(settings, last)
    if output.all_accounts:
        raise UsageError("A run belongs to one account: leave out --all-accounts or RUN_ID.")
    return one_run(settings, run_id)


def recent_runs(settings: Settings, last: int) -> Result:
    """The latest runs, newest first: those of the chosen account, or all in the ledger."""
    from pipelines.destination.identity import destination_label
    from pipelines.running.session import open_ledger

    label = destination_label(settings) if settings.account else None
    with open_ledger(settings) as ledger:
        records = ledger.runs.recent(last, label)
    return Result(
        summary={"status": "ok", "runs": [_run_facts(record) for record in records]},
        lines=[_run_table(records)] if records else ["No runs yet. Start with: hiringcenter pull"],
        is_answer=True,
    )


def one_run(settings: Settings, run_id: str) -> Result:
    """Everything that is known about one run. run_id: whole, or an unambiguous prefix.

    Raises:
        UsageError: no run has that id, or several do.
    """
    from connector.runs import SENDING
    from connector.upsert.outbox.receipts import ResultStore
    from pipelines.push.push_report import NOTEWORTHY_MAX, grouped, row_line
    from pipelines.running.session import open_ledger, outbox_database

    with open_ledger(settings) as ledger:
        record = ledger.run_named(run_id)
    facts = _run_facts(record)
    lines = [f"{name}: {_indented(value)}" for name, value in facts.items() if value is not None]
    results: list[RowResult] = []
    if record.kind in SENDING:
        with closing(outbox_database(settings)) as database:
            results = ResultStore(database, scope=0).noteworthy(record.run_id, NOTEWORTHY_MAX)
    lines += [row_line(*group) for group in grouped(results)]
    noteworthy = [result._asdict() for result in results]
    summary = {**facts, "status": record.status, "noteworthy": noteworthy}
    return Result(summary=summary, lines=lines, is_answer=True)


def _run_facts(record: RunRecord) -> dict[str, Any]:
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


def _indented(value: Any, indent: str = "\n  ") -> str:
    if not isinstance(value, dict):
        return str(value)
    return "".join(
        f"{indent}{name}: {_indented(each, indent + '  ')}" for name, each in value.items()
    )


def _run_table(records: list[RunRecord]) -> Any:
    """Readable at 80 columns: ids stay whole, long text wraps, and of an error only the first
    sentence is shown (`runs RUN_ID` shows all of it)."""
    rows = []
    for record in records:
        ended_ms = record.finished_ms
        took = "" if ended_ms is None else elapsed((ended_ms - record.started_ms) / 1000)
        facts = (record.run_id, record.kind, record.status, took)
        requests = str(record.summary.get("requests", ""))
        rows.append((*facts, requests, _what_happened(record)))
    titles = ("run", "kind", "status", "took", "requests", "what")
    table = text_table(titles, rows, right=("took", "requests"))
    for column in table.columns[:-1]:
        column.no_wrap = True
    table.columns[-1].overflow = "fold"
    return table


def _what_happened(record: RunRecord) -> str:
    from connector.runs import SENDING

    if record.kind in SENDING:
        from pipelines.push.push_report import outcomes_in_words

        named = record.summary.get("job") or record.summary.get("source")
        facts = ": ".join(part for part in (named, outcomes_in_words(record.summary)) if part)
    elif record.kind == "verify":
        facts = "{wrong:,} of {compared:,} rows wrong, {late:,} late".format_map(record.summary)
    elif record.kind == "forget":
        facts = f"{plural(sum(record.summary.get('removed', {}).values()), 'row')} removed"
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


# --- columns --------------------------------------------------------------------------------

_TYPE_WORDS = {
    "text": "text", "bool": "boolean", "bigint": "integer", "double": "number",
    "timestamp": "time", "json": "JSON",
}  # fmt: skip
_MART_TYPES = (  # of DuckDB, by their beginning
    ("VARCHAR[]", "list"), ("VARCHAR", "text"), ("BOOLEAN", "boolean"), ("DOUBLE", "number"),
    ("DECIMAL", "number"), ("TIMESTAMP", "time"), ("DATE", "date"), ("JSON", "JSON"),
    *((name, "integer") for name in ("BIGINT", "INTEGER", "HUGEINT", "UBIGINT")),
)  # fmt: skip
_WIDTH, _NAME_CELLS, _TYPE_CELLS = 80, 24, 8


@command(
    "columns",
    short_help="Print the dictionary: what each table and column holds",
    example="hiringcenter columns prospects",
)
def _columns(settings: Settings, _output: Output, table: str | None = argument("TABLE")) -> Result:
    """Print what each column of TABLE (default: of all tables and marts) holds, with its type.
    Where data has landed, also the columns that the API's reference doesn't name. Needs no
    network."""
    tables, note = dictionary(settings)
    if table is not None:
        if table not in tables:
            hint = did_you_mean(table, tables)
            raise UsageError(f"There is no table {table!r}.{hint} Known: {', '.join(tables)}.")
        tables = {table: tables[table]}
    lines = [line for facts in tables.values() for line in _table_lines(facts)]
    return Result(
        summary={"status": "ok", "tables": [*tables.values()], "note": note},
        lines=[*lines, *([note] if note else [])],
        is_answer=True,
    )


def dictionary(settings: Settings) -> tuple[dict[str, dict[str, Any]], str | None]:
    """By name, each table with its columns; and why those that have landed aren't among them, if
    that is so. is_documented: the column exists whatever the API returns."""
    from connector.source.dictionary import UNNAMED, column_text, table_text
    from pipelines.pull.run_tables import documented_columns
    from pipelines.pull.sampling import open_landed

    documented, landed, note = documented_columns(), dict[str, Any](), None
    if (sandbox := _sandbox_copy(settings)) is not None:
        settings = settings.model_copy(update={"duckdb_path": sandbox, "destination": "duckdb"})
        note = f"No API key is configured: this is the sandbox's copy at {sandbox}."
    try:
        with open_landed(settings) as tables:
            landed = tables.columns()
    except ConnectorError as error:
        note = f"Only documented columns are shown. {error}"
    found, every = {}, dict[str, dict[str, Any]]()
    for name in [*documented, *sorted(landed.keys() - documented.keys())]:
        about = table_text(name)
        if about is None:  # dlt's, or a user's on a server
            continue
        known = documented.get(name, {})
        columns = every[name] = {**known, **landed.get(name, {})}
        found[name] = {
            "name": name,
            "holds": about,
            "columns": [
                {
                    "name": column,
                    "type": _TYPE_WORDS.get(schema["data_type"], schema["data_type"]),
                    "holds": column_text(name, column) or UNNAMED,
                    "is_documented": column in known or column_text(name, column) is not None,
                }
                for column, schema in columns.items()
                if not column.startswith("_dlt_")
            ],
        }
    return {**found, **_mart_facts(settings, every)}, note


def _mart_facts(settings: Settings, tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same of marts, ours and the user's. tables: dlt's columns, by table."""
    from connector.source.dictionary import UNNAMED, column_text
    from pipelines.destination.marts import mart_types, our_marts, own_marts
    from pipelines.destination.warehouse import DUCKDB_TYPES

    if not settings.marts.enabled:
        return {}
    ours, folder = our_marts(), settings.marts.directory
    marts = [*ours, *(own_marts(folder, ours) if folder is not None else ())]
    known = {
        table: {
            name: DUCKDB_TYPES[column["data_type"]]
            for name, column in columns.items()
            if column["data_type"] in DUCKDB_TYPES
        }
        for table, columns in tables.items()
    }
    types, found = mart_types(marts, settings.dataset, known), {}
    for mart in marts:
        own, about = types[mart.name], dict[str, str]()
        for table in sorted(mart.words & tables.keys()) if not mart.is_own else ():
            about |= {name: column_text(table, name) or UNNAMED for name in tables[table]}
        about |= dict(mart.columns)
        holds = f"mart{' of your own' if mart.is_own else ''}. {mart.question}".strip()
        if isinstance(own, str):
            own, holds = dict(mart.columns), f"{holds} It can't be made: {own}"
            own = dict.fromkeys(own, "")
        columns = [
            {
                "name": name,
                "type": next((word for type_, word in _MART_TYPES if kind.startswith(type_)), kind),
                "holds": about.get(name, f"not described: its file has no line -- {name}: …"),
                "is_documented": about.get(name, UNNAMED) != UNNAMED,
            }
            for name, kind in own.items()
        ]
        found[mart.name] = {"name": mart.name, "holds": holds, "columns": columns}
    return found


def _table_lines(table: dict[str, Any]) -> Iterator[str]:
    """At most 80 characters wide, unless a name is longer."""
    import textwrap

    yield from textwrap.wrap(f"{table['name']}: {table['holds']}", _WIDTH)
    indent = 2 + _NAME_CELLS + 1 + _TYPE_CELLS + 1
    for column in table["columns"]:
        name, *lines = column["name"], *textwrap.wrap(column["holds"], _WIDTH - indent)
        if len(name) > _NAME_CELLS:
            yield f"  {name}"
            name = ""
        yield f"  {name:<{_NAME_CELLS}} {column['type']:<{_TYPE_CELLS}} {lines[0]}"
        yield from (" " * indent + line for line in lines[1:])
    yield ""


# --- report ---------------------------------------------------------------------------------


@command(
    "report",
    short_help="Write a report as one HTML file",
    example="hiringcenter report --output report.html --open",
)
def _report(
    settings: Settings,
    output: Output,
    path: Path = option("--output F", "File to write.", default=_REPORT),
    show: bool = flag("--open", "Open the report in a browser."),
) -> Result:
    """Write a self-contained HTML report: freshness, growth, changes, budget, pushes, runs."""
    import webbrowser

    from pipelines.report.report_page import write_report

    settings.check_account()
    if settings.account and (output.all_accounts or path == _REPORT):
        path = path.with_stem(f"{path.stem}-{settings.account}")
    runs = write_report(settings, path)
    if show:
        webbrowser.open(path.absolute().as_uri())
    return Result(
        summary={"status": "ok", "file": str(path), "runs": runs},
        lines=[f"The report is at {path} ({plural(runs, 'run')})."],
    )


# --- budget ---------------------------------------------------------------------------------

_BAR_CELLS = 40


@command(
    "budget",
    short_help="Show what the key may still send, and when",
    example="hiringcenter budget --plan 5000",
)
def _budget(
    settings: Settings,
    output: Output,
    plan: int | None = option(
        "--plan N", "Forecast when N more requests would be done.", min=1, max=10**9
    ),
) -> Result:
    """Show what is used and free in each window, by lane; any hold and its reason; which
    processes are connected."""
    from connector import logs
    from connector.budget import Lane
    from connector.budget.database import Database
    from connector.budget.ledger_view import open_report
    from pipelines.destination.identity import prepare_state_dir

    logs.hide(settings.key)
    prepare_state_dir(settings)
    ledger = Database(settings.resolved_ledger_url)
    try:
        report = open_report(ledger, api_key=settings.key, limits=settings.rate_limits)
        state = report.state()
        etas = {lane: report.forecast(plan, lane) for lane in Lane} if plan else {}
    finally:
        ledger.close()
    facts = (state, Plan(plan, etas) if plan else None, datetime.now(UTC))
    draw = as_bars if sys.stdout.isatty() and not output.json else as_lines
    return Result(summary=as_json(*facts), lines=list(draw(*facts)), is_answer=True)


@dataclass(frozen=True)
class Plan:
    """When `requests` more would be done, by lane."""

    requests: int
    etas: dict[Lane, Eta]


def as_json(state: BudgetState, plan: Plan | None, now: datetime) -> dict[str, Any]:
    """The facts for `--json`; `_in_s` is in seconds from now, `_at` in UTC."""
    facts: dict[str, Any] = {
        "status": "ok",
        "windows": [
            {name: _rounded(value) for name, value in asdict(window).items()}
            | {"used": window.used, "free": window.free}
            for window in state.windows
        ],
        "hold": None,
        "in_flight": state.in_flight,
        "latency_s": _rounded(state.latency_s),
        "next_in_s": {str(lane): _rounded(wait) for lane, wait in state.next_in_s.items()},
        "connected": [
            {
                "pid": process.pid,
                "host": process.host,
                "command": process.command,
                "connected_s": _rounded(state.now_s - process.since_s),
                "waiting": {"pull": process.waiting_pull, "push": process.waiting_push},
            }
            for process in state.connected
        ],
    }
    if state.hold_in_s > 0:
        ends = {"ends_in_s": _rounded(state.hold_in_s), "ends_at": _moment(now, state.hold_in_s)}
        facts["hold"] = {"reason": state.hold_reason, **ends}
    if plan is not None:
        facts["plan"] = {"requests": plan.requests} | {
            str(lane): {
                "first_in_s": _rounded(eta.first_in_s),
                "done_in_s": _rounded(eta.done_in_s),
                "done_at": _moment(now, eta.done_in_s),
            }
            for lane, eta in plan.etas.items()
        }
    return facts


def as_lines(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[str]:
    """The same facts as lines of text."""
    for window in state.windows:
        yield f"per {_wait(window.length_s)}: {_window_facts(window)}"
    yield from _notes(state, plan, now)


def as_bars(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[Any]:
    """The same facts for a terminal: one bar per window, then the notes. The parts of a bar also
    differ in their characters, for terminals without colors."""
    from rich.text import Text

    for window in state.windows:
        whole = max(window.limit, window.used)
        pull = round(window.pull / whole * _BAR_CELLS)
        push = min(_BAR_CELLS - pull, round(window.push / whole * _BAR_CELLS))
        free = ("·" * (_BAR_CELLS - pull - push), "bright_black")
        name = f"per {_wait(window.length_s)}".ljust(13)
        yield Text.assemble(name, ("█" * pull, "cyan"), ("▒" * push, "magenta"), free)
        yield Text(f"  {_window_facts(window)}")
    yield Text.assemble(("█ pull  ", "cyan"), ("▒ push  ", "magenta"), ("· free", "bright_black"))
    yield from _notes(state, plan, now)


def _window_facts(window: WindowReport) -> str:
    lanes = f"pull {window.pull}, push {window.push}"
    line = f"{window.used} of {window.limit} used ({lanes}), {window.free} free"
    if window.limit < window.configured:
        line += f"; configured {window.configured}, lowered to match the server's answers"
    if window.push_limit < window.limit:
        line += f"; pushes stop at {window.push_limit}, the remainder is reserved for pulls"
    if window.foreign_in_s > 0:
        line += (
            f"; another program uses this key (up to {window.foreign} of this window),"
            f" so room is reserved for it for {_wait(window.foreign_in_s)}"
        )
    if window.spacing_s > 0:
        line += f"; requests {_wait(window.spacing_s)} apart"
    if window.next_free_in_s > 0:
        line += f"; next slot {_within(window.next_free_in_s)}"
    return line


def _notes(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[str]:
    if state.hold_in_s > 0:
        until = _moment(now, state.hold_in_s)
        yield f"On hold for {_wait(state.hold_in_s)} (until {until}): {state.hold_reason}"
    waits = [
        f"{lane} now" if wait_s <= 0 else f"{lane} {_within(wait_s)}"
        for lane, wait_s in state.next_in_s.items()
    ]
    yield f"Next request: {', '.join(waits)}. In flight, or about to be: {state.in_flight}"
    for process in state.connected:
        waiting = process.waiting_pull + process.waiting_push
        process_id = f"{process.command} (pid {process.pid} on {process.host})"
        since = _wait(state.now_s - process.since_s)
        yield f"Connected: {process_id} for {since}{f', {waiting} waiting' if waiting else ''}"
    if not state.connected:
        yield "Connected: no process"
    if plan is None:
        return
    for lane, eta in plan.etas.items():
        at = _moment(now, eta.done_in_s)
        done = f"{_within(eta.done_in_s)}{f' ({at})' if at else ''}"
        yield f"{plan.requests} more requests ({lane}) would be done {done}"


def _wait(wait_s: float) -> str:
    """Up to two minutes in seconds, then in the two largest units."""
    return f"{wait_s:.3g} s" if wait_s < 120 else duration(wait_s)


def _within(wait_s: float) -> str:
    return "never, with these limits" if math.isinf(wait_s) else f"in {_wait(wait_s)}"


def _moment(now: datetime, in_s: float) -> str | None:
    if math.isinf(in_s):
        return None
    return (now + timedelta(seconds=in_s)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 3)
