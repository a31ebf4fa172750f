"""`hiringcenter budget`: the rate budget as bars, as text or as JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from connector.budget import Lane
from pipelines.commands.invocation import command, option
from pipelines.commands.output import Output, Result

if TYPE_CHECKING:
    from connector.budget.ledger_view import BudgetState, Eta, WindowReport
    from connector.settings import Settings

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
                "waiting": {str(lane): process.waiting(lane) for lane in Lane},
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
    from pipelines.running.wording import duration

    return f"{wait_s:.3g} s" if wait_s < 120 else duration(wait_s)


def _within(wait_s: float) -> str:
    return "never, with these limits" if math.isinf(wait_s) else f"in {_wait(wait_s)}"


def _moment(now: datetime, in_s: float) -> str | None:
    if math.isinf(in_s):
        return None
    return (now + timedelta(seconds=in_s)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 3)
