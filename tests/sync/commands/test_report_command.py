"""`hiringcenter report`: shows real runs, from the ledger alone, and opens on request."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from pathlib import Path

import pytest

from connector.sandbox import Sandbox
from connector.settings import load
from tests.sync.commands.conftest import Run
from tests.sync.push.conftest import results_waiting


def test_the_report_shows_what_ran(run: Run, sandbox: Sandbox):
    """Rows, the push with its rejects by reason, and the failure; sends no request."""
    Path("people.csv").write_text(
        "First Name,Last Name,Email\nAda,Byron,ada@example.com\n<script>,X,not-an-email\n"
    )
    run("pull", "notes", "-q")
    with results_waiting(load()):
        run("push", "people.csv", "-q")
    sandbox.options.active = False
    sandbox.requests.clear()
    ended = run("report", "--json")
    assert ended.summary["runs"] == 2
    page = Path(ended.summary["file"]).read_text()
    assert "2 rows: 1 created" in page
    assert "Email: (12 characters) isn&#39;t an email address" in page
    assert "<script" not in page
    assert sandbox.api_key not in page
    assert sandbox.requests == []


def test_freshness_is_that_of_what_readers_see(run: Run, sandbox: Sandbox):
    """As in `status`: without a copy nothing is fresh, whatever has landed."""
    run("pull", "notes", "-q")
    run("report")
    assert Path("hiringcenter-report.html").read_text().count("last scan: full") == 1
    Path("data/hiringcenter.duckdb").unlink()
    run("report")
    assert "last scan: full" not in Path("hiringcenter-report.html").read_text()


def test_open_hands_the_file_to_the_browser(run: Run, monkeypatch: pytest.MonkeyPatch):
    """By its URL, with the desktop's own browser."""
    note = "import sys, pathlib; pathlib.Path('opened').write_text(sys.argv[1])"
    monkeypatch.setenv("BROWSER", f"{sys.executable} -c {shlex.quote(note)} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # it has read BROWSER before
    assert run("report", "--open").code == 0
    assert Path("opened").read_text() == Path("hiringcenter-report.html").absolute().as_uri()


@pytest.mark.parametrize("kind", ["a file of one's own", "a link", "a pipe"])
def test_nothing_but_an_earlier_report_is_overwritten(run: Run, kind: str):
    """A mistyped --output overwrites no other file."""
    Path("mine.html").write_text("<html>mine</html>")
    target = "mine.html"
    if kind == "a link":
        Path("report.html").symlink_to("mine.html")
        target = "report.html"
    if kind == "a pipe":
        os.mkfifo("pipe.html")
        target = "pipe.html"
    ended = run("report", "--output", target)
    assert (ended.code, "--output" in ended.err) == (2, True)
    assert Path("mine.html").read_text() == "<html>mine</html>"
    assert run("report", "--output", "new.html").code == 0
    assert run("report", "--output", "new.html").code == 0


def test_a_report_path_that_cannot_be_written_is_a_usage_error(run: Run):
    """Exit 2, and the option that names another."""
    ended = run("report", "--output", "nowhere/report.html")
    assert ended.code == 2
    assert "--output" in ended.err
