"""`hiringcenter budget`: the same facts as text, as bars and as one JSON object."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.ledger_view import BudgetState, Eta, WindowReport
from connector.budget.scheduler import RateBudget
from connector.settings import RateLimit
from pipelines.commands.status_commands import Plan, as_bars, as_json, as_lines

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = WindowReport(
    60.0, 300, 280, 200, pull=100, push=150, next_free_in_s=0, foreign_in_s=12, foreign=10,
    spacing_s=0.107,
)  # fmt: skip
HOUR = WindowReport(3600.0, 6000, 6000, 6000, 6000, 0, next_free_in_s=90.5, foreign_in_s=0)
STATE = BudgetState(
    now_s=1000.0,
    windows=[MINUTE, HOUR],
    hold_in_s=7.5,
    hold_reason="429, asked to wait 8 s",
    in_flight=3,
    connected=[],
    latency_s=0.25,
    next_in_s={Lane.PULL: 90.5, Lane.PUSH: 90.5},
)
PLAN = Plan(5000, {Lane.PULL: Eta(90.5, 3700.0), Lane.PUSH: Eta(90.5, 7300.0)})


def test_lines_show_what_is_used_free_held_and_when_it_ends():
    """Windows by lane, why a limit is lower, the hold, the next slot, the plan."""
    text = "\n".join(as_lines(STATE, PLAN, NOW))
    assert "per 60 s: 250 of 280 used (pull 100, push 150), 30 free" in text
    assert "configured 300, lowered to match the server's answers" in text
    assert "pushes stop at 200" in text
    assert "another program uses this key (up to 10 of this window)" in text
    assert "room is reserved for it for 12 s; requests 0.107 s apart" in text
    assert "per 1 h: 6000 of 6000 used (pull 6000, push 0), 0 free; next slot in 90.5 s" in text
    assert "On hold for 7.5 s (until 2026-03-01T12:00:07Z): 429, asked to wait 8 s" in text
    assert "5000 more requests (push) would be done in 2 h 1 min (2026-03-01T14:01:40Z)" in text
    assert "Connected: no process" in text


def test_json_holds_the_same_facts():
    """Numbers as numbers, seconds from now, and UTC moments."""
    facts = json.loads(json.dumps(as_json(STATE, PLAN, NOW)))
    assert [window["used"] for window in facts["windows"]] == [250, 6000]
    assert facts["hold"]["ends_at"] == "2026-03-01T12:00:07Z"
    assert facts["plan"]["push"]["done_in_s"] == 7300.0
    assert facts["next_in_s"] == {"pull": 90.5, "push": 90.5}


def test_bars_are_as_long_as_their_window():
    """Pull, push and free fill one bar of 40 cells, whatever the share; without colors (NO_COLOR)
    their signs distinguish them."""
    console = Console(file=io.StringIO(), width=200)
    for line in as_bars(STATE, None, NOW):
        console.print(line)
    drawn = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    bars = [line for line in drawn if line.startswith("per")]
    assert [sum(map(bar.count, "█▒·")) for bar in bars] == [40, 40]
    assert "·" in bars[0], "50 of 300 are free"
    assert "·" not in bars[1], "nothing is free"


def test_without_a_plan_or_a_hold_both_are_left_out():
    """Only what is there is shown."""
    state = BudgetState(0.0, [HOUR], 0.0, "", 0, [], None, {Lane.PULL: 0.0, Lane.PUSH: 0.0})
    text = "\n".join(as_lines(state, None, NOW))
    assert "hold" not in text
    assert "more requests" not in text
    assert "Next request: pull now, push now" in text
    assert as_json(state, None, NOW)["hold"] is None


def test_what_can_never_be_done_is_called_so():
    """A lane whose share is empty has no moment at which its requests are done."""
    state = replace(STATE, next_in_s={Lane.PULL: 0.0, Lane.PUSH: math.inf})
    text = "\n".join(as_lines(state, Plan(5, {Lane.PUSH: Eta(math.inf, math.inf)}), NOW))
    assert "Next request: pull now, push never, with these limits." in text
    assert text.endswith("5 more requests (push) would be done never, with these limits")


@pytest.fixture
def spending(tmp_path: Path) -> Iterator[RateBudget]:
    """Another process' budget in the state directory of the command, with 2 of 300 spent."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    limits = [RateLimit(300, 60.0), RateLimit(6000, 3600.0)]
    with RateBudget(database, api_key="secret-key", limits=limits, request_timeout_s=5) as budget:
        for lane in Lane:
            budget.answered(budget.permit(lane), 200, {})
        while budget.state().in_flight:
            pass
        yield budget
    database.close()


COMMAND = [sys.executable, "-m", "pipelines.cli", "budget", "--plan", "10"]
ROOT = Path(__file__).parents[2]


def environment(tmp_path: Path) -> dict[str, str]:
    """Of a command that uses the ledger of `spending`."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HIRINGCENTER_API_KEY": "secret-key",
        "HIRINGCENTER_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
    }


def test_the_command_shows_who_is_connected(spending: RateBudget, tmp_path: Path):
    """Its JSON is the last line of stdout, and the key is nowhere in it."""
    done = subprocess.run(
        [*COMMAND, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=environment(tmp_path),
    )  # fmt: skip
    facts = json.loads(done.stdout.splitlines()[-1])
    assert [window["used"] for window in facts["windows"]] == [2, 2]
    assert [each["pid"] for each in facts["connected"]] == [os.getpid()]
    assert facts["plan"]["requests"] == 10
    assert "secret-key" not in done.stdout + done.stderr


def test_the_command_draws_bars_on_a_terminal(spending: RateBudget, tmp_path: Path):
    """Where stdout is a terminal, windows are bars."""
    ours, theirs = pty.openpty()
    subprocess.run(
        COMMAND, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, check=True,
        env=environment(tmp_path),
    )  # fmt: skip
    os.close(theirs)
    assert "█" in os.read(ours, 65536).decode()
    os.close(ours)


def test_without_a_key_the_command_says_where_to_get_one(tmp_path: Path):
    """Exit 2, and the variable's name."""
    keyless = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, env=keyless)
    assert done.returncode == 2
    assert "HIRINGCENTER_API_KEY" in done.stderr
