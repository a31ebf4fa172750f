"""The budget as people and machines read it: lines, bars, one JSON object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.budget import Lane
from connector.budget.ledger_view import BudgetState, Eta, WindowReport

_BAR_CELLS = 40


@dataclass(frozen=True)
class Plan:
    """When `requests` more would be done, by lane."""

    requests: int
    etas: dict[Lane, Eta]


def as_json(state: BudgetState, plan: Plan | None, now: datetime) -> dict[str, Any]:
    """The facts for `--json`; times are seconds from now, and UTC where they name a moment."""
    facts: dict[str, Any] = {
        "status": "ok",
        "windows": [_window_json(window) for window in state.windows],
        "hold": _hold_json(state, now),
        "in_flight": state.in_flight,
        "latency_s": _rounded(state.latency_s),
        "next_in_s": {str(lane): _rounded(wait) for lane, wait in state.next_in_s.items()},
        "connected": [_connected_json(state, index) for index in range(len(state.connected))],
    }
    if plan is not None:
        facts["plan"] = {"requests": plan.requests, **_plan_json(plan, now)}
    return facts


def _window_json(window: WindowReport) -> dict[str, Any]:
    seconds = {name: _rounded(value) for name, value in asdict(window).items() if "_in_s" in name}
    return {**asdict(window), **seconds, "used": window.used, "free": window.free}


def _hold_json(state: BudgetState, now: datetime) -> dict[str, Any] | None:
    if state.hold_in_s <= 0:
        return None
    return {
        "reason": state.hold_reason,
        "ends_in_s": _rounded(state.hold_in_s),
        "ends_at": _moment(now, state.hold_in_s),
    }


def _connected_json(state: BudgetState, index: int) -> dict[str, Any]:
    owner = state.connected[index]
    return {
        "pid": owner.pid,
        "host": owner.host,
        "command": owner.command,
        "connected_s": _rounded(state.now_s - owner.since_s),
        "waiting": {str(lane): owner.waiting(lane) for lane in Lane},
    }


def _plan_json(plan: Plan, now: datetime) -> dict[str, Any]:
    return {
        str(lane): {
            "first_in_s": _rounded(eta.first_in_s),
            "done_in_s": _rounded(eta.done_in_s),
            "done_at": _moment(now, eta.done_in_s),
        }
        for lane, eta in plan.etas.items()
    }


def as_lines(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[str]:
    """The same facts as lines of text."""
    for window in state.windows:
        yield _window_line(window)
    yield from _notes(state, plan, now)


def as_bars(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[Any]:
    """The same facts for a terminal: one bar per window, then the notes."""
    from rich.text import Text

    for window in state.windows:
        cells = [(sign * cells, style) for sign, cells, style in _cells(window)]
        yield Text.assemble(f"{_name(window):<12} ", *cells)
        yield Text(f"  {_window_line(window).split(': ', 1)[1]}")
    yield Text.assemble(("█ pull  ", "cyan"), ("▒ push  ", "magenta"), ("· free", "bright_black"))
    yield from _notes(state, plan, now)


def _cells(window: WindowReport) -> list[tuple[str, int, str]]:
    """(sign, how many cells of a bar, colour) of each part; together always all of them. The signs
    tell them apart where there are no colours."""
    whole = max(window.limit, window.used)
    pull = round(window.pull / whole * _BAR_CELLS)
    push = min(_BAR_CELLS - pull, round(window.push / whole * _BAR_CELLS))
    return [
        ("█", pull, "cyan"),
        ("▒", push, "magenta"),
        ("·", _BAR_CELLS - pull - push, "bright_black"),
    ]


def _window_line(window: WindowReport) -> str:
    line = (
        f"{_name(window)}: {window.used} of {window.limit} used"
        f" (pull {window.pull}, push {window.push}), {window.free} free"
    )
    if window.limit < window.configured:
        line += f"; configured {window.configured}, lowered by what the server answers"
    if window.push_limit < window.limit:
        line += f"; pushes stop at {window.push_limit}, the rest is kept for pulls"
    if window.foreign_in_s > 0:
        line += (
            f"; another program spends from this key (up to {window.foreign} of this window),"
            f" so room is left for it for {_wait(window.foreign_in_s)}"
        )
    if window.spacing_s > 0:
        line += f"; requests {_wait(window.spacing_s)} apart"
    if window.next_free_in_s > 0:
        line += f"; next slot in {_wait(window.next_free_in_s)}"
    return line


def _notes(state: BudgetState, plan: Plan | None, now: datetime) -> Iterator[str]:
    if state.hold_in_s > 0:
        until = _moment(now, state.hold_in_s)
        yield f"On hold for {_wait(state.hold_in_s)} (until {until}): {state.hold_reason}"
    waits = [f"{lane} {_when(wait_s)}" for lane, wait_s in state.next_in_s.items()]
    yield f"Next request: {', '.join(waits)}. In flight: {state.in_flight}"
    for owner in state.connected:
        waiting = owner.waiting(Lane.PULL) + owner.waiting(Lane.PUSH)
        since = _wait(state.now_s - owner.since_s)
        yield (
            f"Connected: {owner.command} (pid {owner.pid} on {owner.host}) for {since}"
            + (f", {waiting} waiting" if waiting else "")
        )
    if not state.connected:
        yield "Connected: no process"
    if plan is not None:
        for lane, eta in plan.etas.items():
            done = f"in {_wait(eta.done_in_s)} ({_moment(now, eta.done_in_s)})"
            yield f"{plan.requests} more requests ({lane}) would be done {done}"


def _name(window: WindowReport) -> str:
    return f"per {_wait(window.length_s)}"


def _when(wait_s: float) -> str:
    return "now" if wait_s <= 0 else f"in {_wait(wait_s)}"


def _wait(wait_s: float) -> str:
    """Up to two minutes in seconds, then in the two largest units."""
    from pipelines.wording import duration

    if math.isinf(wait_s):
        return "never, as the limits are"
    return f"{wait_s:.3g} s" if wait_s < 120 else duration(wait_s)


def _moment(now: datetime, in_s: float) -> str | None:
    if math.isinf(in_s):
        return None
    return (now + timedelta(seconds=in_s)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 3)
