"""A key that replaces another of the same account resumes where the other stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.sandbox import Sandbox
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import push
from tests.sync.push.conftest import results_waiting


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(
        "First Name,Last Name,E-mail,note.body\nAda,L,ada@example.org,Called\n"
        "Bob,B,bob@example.org,\n"
    )
    return path


def push_people(settings: Settings, path: Path) -> PushReport:
    with results_waiting(settings):
        return push(settings, PushRequest(file=str(path)))


def rotate(sandbox: Sandbox, settings: Settings, key: str) -> Settings:
    sandbox.options.api_key = key
    return Settings(**{**settings.model_dump(), "api_key": key})


@pytest.mark.pulled
def test_rows_accepted_under_the_former_key_stay_accepted(
    sandbox: Sandbox, settings: Settings, people: Path
):
    """One request finds out whose key it is, once; no row goes again, and no note is doubled."""
    assert push_people(settings, people).summary["created"] == 2
    settings = rotate(sandbox, settings, "second-key")
    for requests in (1, 0):
        summary = push_people(settings, people).summary
        assert (summary["unchanged"], summary["requests"]) == (2, requests)
    assert len(sandbox.store.all("notes")) == 1


@pytest.mark.pulled
def test_a_pull_with_the_new_key_shows_whose_it_is(
    sandbox: Sandbox, settings: Settings, people: Path
):
    """Every pull asks anyway, so the push needs no request of its own."""
    push_people(settings, people)
    settings = rotate(sandbox, settings, "second-key")
    pull(settings, Wanted(("prospects",)))
    assert push_people(settings, people).summary["requests"] == 0


@pytest.mark.pulled
def test_the_key_of_another_account_starts_over(sandbox: Sandbox, settings: Settings, people: Path):
    """What one account has accepted says nothing about another."""
    push_people(settings, people)
    sandbox.options.account_id = "acct_other"
    settings = rotate(sandbox, settings, "second-key")
    summary = push_people(settings, people).summary
    # both are met as they should be; Ada gets her note, as far as that account knows
    assert (summary["updated"], summary["unchanged"]) == (1, 1)
    assert summary["requests"] > 1


def test_a_key_with_receipts_of_its_own_keeps_them(
    sandbox: Sandbox, settings: Settings, people: Path
):
    """Two keys that both pushed before their account was known aren't mixed up afterwards."""
    push_people(settings, people)
    second = rotate(sandbox, settings, "second-key")
    assert push_people(second, people).summary["updated"] == 1  # Ada, with her note
    pull(second, Wanted(("prospects",)))
    first = rotate(sandbox, settings, settings.key)
    pull(first, Wanted(("prospects",)))
    for each in (first, rotate(sandbox, settings, "second-key")):
        sandbox.options.api_key = each.key
        summary = push_people(each, people).summary
        assert (summary["unchanged"], summary["requests"]) == (2, 0)


@pytest.mark.pulled
def test_a_key_that_may_not_ask_pushes_under_its_own_number(
    sandbox: Sandbox, settings: Settings, people: Path
):
    """An unnamed account doesn't prevent a push."""
    push_people(settings, people)
    settings = rotate(sandbox, settings, "second-key")
    sandbox.options.account_id = ""
    for requests in (6, 0):  # GET /auth, two prospects met and looked at, a note
        assert push_people(settings, people).summary["requests"] == requests
