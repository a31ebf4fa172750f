"""Times, durations and counts as people say them; a bar that fits a terminal of 80 columns."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from connector.errors import UsageError
from connector.upsert.outbox.receipts import RowResult, Status
from pipelines.push.push_report import grouped
from pipelines.running import progress
from pipelines.running.progress import Bar, ProgressState

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("length_s", "text"),
    [
        (0.4, "less than 1 s"),
        (45, "45 s"),
        (4752, "1 h 19 min, done about 13:19"),
        (86_400 + 3600, "1 d 1 h, done about Tue 13:00"),
    ],
)
def test_an_eta_is_what_people_say(length_s: float, text: str):
    """Seconds while they can be waited for, then two units and the time on the clock."""
    assert progress.eta(length_s, NOON) == text


def test_people_have_a_plural_of_their_own():
    """Not `persons`."""
    assert [progress.plural(n, "person") for n in (1, 2)] == ["1 person", "2 people"]


def test_counts_have_their_plural():
    """One row, two rows."""
    assert [progress.plural(n, "row") for n in (0, 1, 2, 12_000)] == [
        "0 rows", "1 row", "2 rows", "12,000 rows",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "text"),
    [([3], "3"), ([3, 4], "3-4"), ([2, 3, 4, 9], "2-4, 9"), ([1, 3, 5, 7, 8], "1, 3 and 3 more")],
)
def test_row_numbers_are_folded(rows: list[int], text: str):
    """However many rows share one reason, they are one line."""
    assert progress.numbers(rows, most=2) == text


def test_rows_of_one_reason_are_one_line():
    """Also where the cells that it speaks of are of different lengths; one row keeps the length."""
    bad = [
        RowResult(
            row, Status.REJECTED, None, f"email: ({length} characters) isn't an email address"
        )
        for row, length in ((3, 8), (4, 12))
    ]
    other = RowResult(7, Status.REJECTED, None, "phone: (5 characters) isn't a phone number")
    assert grouped([*bad, other]) == [
        ("3-4", "rejected", "email: isn't an email address"),
        ("7", "rejected", "phone: (5 characters) isn't a phone number"),
    ]


@pytest.mark.parametrize("text", ["", "2", "2 weeks", "-1h"])
def test_an_invalid_duration_is_refused(text: str):
    """With what would be one."""
    with pytest.raises(UsageError, match="45m"):
        progress.parse_duration_s(text)


class _Clock:
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("state", "logged"),
    [
        (ProgressState("row", 150, 300), {"rows": 150, "of": 300}),
        (ProgressState("page", 3, 9, rows=600), {"pages": 3, "of": 9, "rows": 600}),
    ],
)
def test_log_lines_of_long_work_say_how_much_is_done(state: ProgressState, logged: dict[str, int]):
    """Of work that counts rows, and of work that counts pages and has rows besides."""
    clock = _Clock()
    session: Any = SimpleNamespace(clock=clock)
    shown = progress.progress_of("verify", bar=False)(session)
    clock.now_s = 60.0
    with capture_logs() as lines:
        shown.show(state)
    assert [line.items() >= logged.items() for line in lines] == [True]


def test_the_bar_of_a_large_pull_is_one_line_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Done, of how many, rows, and when it will be done: nothing is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar("pull", _Clock(), lambda requests: requests * 8.0)  # type: ignore[arg-type]
    bar.show(ProgressState("page", 1_234, 6_001, rows=246_800, requests_left=4_767))
    bar.stop()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if "pages" in line]
    assert lines
    assert max(map(len, lines)) <= 80
    assert "1,234 of 6,001 pages, 246,800 rows · 10 h 35 min, done about" in lines[-1]
