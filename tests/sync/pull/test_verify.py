"""`verify`: random rows looked up by id and compared, and what that shows about all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from connector.errors import Interrupted, Unreachable, UsageError
from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.settings import PullSettings, ResourceSettings
from connector.webhooks.inbox import Arrival, account_of, open_inbox
from pipelines.pull.sampling import verify_lines
from pipelines.pull.verification import VerifyReport, VerifyRequest, is_same, verify
from pipelines.running.progress import Progress, ProgressState
from pipelines.running.session import Session, open_ledger
from tests.sync.pull.between import Between
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    """A small one: a row costs a request."""
    options = SandboxOptions(prospects=80, notes=30, tasks=30, meetings=20)
    with first_pulls.sandbox(options) as running:
        yield running


def _verify(puller: Puller, *resources: str, requests: int = 1000, **wanted: Any) -> VerifyReport:
    request = VerifyRequest(resources or RESOURCES, requests, **wanted)
    return verify(puller.settings, request, chance=random.Random(5))


def _differences(report: VerifyReport) -> dict[str, list[str]]:
    return {each["id"]: each["fields"] for each in report.summary["differences"]}


def _ids(puller: Puller, resource: str) -> list[str]:
    return sorted(row["id"] for row in puller.sandbox.store.all(resource))


def test_an_exact_copy_has_no_differences_and_an_altered_one_those_that_were_made(
    any_puller: Puller,
):
    """Unknown fields, values of other types, names that can't be columns, labels, times and nulls
    included: what a pull lands is what the look-ups make. Rows that are altered then are listed by
    id and field, never by value: nothing excuses them."""
    store = any_puller.sandbox.store
    first, second, third, *_ = _ids(any_puller, "prospects")
    store.update("prospects", first, {
        "title": 7, "labels": ["b", "a"], "score": 2.5, "xmin": "kept elsewhere", "score_": None,
        "nested": {"b": 1.0, "a": [1, {"c": None}]}, "first_name": "a twin", "xmax": [1, 2],
        "order": "a keyword of SQL",
    }, touch=False)  # fmt: skip
    store.update("prospects", second, {"labels": "one, two", "score": "high"}, touch=False)
    store.update("prospects", third, {"title": "\uf027", "updatedAt": "soon"}, touch=False)
    any_puller.pull_ok()
    report = _verify(any_puller)
    assert _differences(report) == {}
    counts = {name: report.summary[name] for name in ("rows", "compared", "wrong", "at_most")}
    assert counts == {"rows": 160, "compared": 160, "wrong": 0, "at_most": 0}
    assert report.exit_code == 0
    lists = report.summary["resources"]
    assert lists["prospects"]["total_count"] == lists["prospects"]["rows"] == 80
    assert not any("fields_left_out" in facts for facts in lists.values())
    prospect, task, note = (_ids(any_puller, name)[9] for name in ("prospects", "tasks", "notes"))
    store.update("prospects", prospect, {"email": "x@example.com", "labels": ["z"]}, touch=False)
    store.update("tasks", task, {"dueAt": 5}, touch=False)
    store.update("notes", note, {"body": "<p>edited</p>"}, touch=False)
    report = _verify(any_puller)
    found = {prospect: ["email", "labels"], task: ["due_at"], note: ["body"]}
    assert _differences(report) == found
    assert report.summary["at_most"] == pytest.approx(3 / 160, abs=1e-6)  # all rows were read
    assert report.exit_code == 3
    text = "\n".join(str(each) for each in verify_lines(report.summary))
    assert f"Differs: prospects {prospect}: email, labels" in text
    assert "example.com" not in text + str(report.summary)


def test_a_sample_bounds_the_share_of_wrong_rows(puller: Puller):
    """One request for each row and each count, and one for the account. Where too few rows were
    compared to show whether at most 1 % are wrong, the exit code is 3, and it says how many it
    takes."""
    puller.pulled()
    report = _verify(puller, requests=100, max_wrong=0.02)
    assert report.summary["compared"] == 100
    assert report.summary["requests"] == 105
    assert report.exit_code == 0
    text = "\n".join(str(each) for each in verify_lines(report.summary))
    assert "0 of 100 differ: at most 1.9% of 160 rows are wrong, with 95% confidence." in text
    report = _verify(puller, "prospects", requests=20)
    assert (report.summary["verdict"], report.exit_code) == ("too_few", 3)
    takes = report.summary["takes"]
    text = "\n".join(str(each) for each in verify_lines(report.summary))
    assert f"hiringcenter verify prospects --requests {takes}" in text
    assert _verify(puller, "prospects", requests=takes).exit_code == 0


def test_the_bound_covers_the_altered_rows(puller: Puller):
    """Of 80 prospects 0, 2 and 6 are wrong: samples of 20 never say that fewer are."""
    puller.pulled("prospects")
    ids = _ids(puller, "prospects")
    for altered in ([], ids[:2], ids[2:6]):
        for each in altered:
            puller.sandbox.store.update("prospects", each, {"title": "altered"}, touch=False)
        for seed in range(2):
            request = VerifyRequest(("prospects",), 20)
            report = verify(puller.settings, request, chance=random.Random(seed))
            assert report.summary["at_most"] >= (ids.index(altered[-1]) + 1 if altered else 0) / 80


def test_rows_edited_after_the_pull_are_late_and_others_take_their_place(puller: Puller):
    """They are neither right nor wrong: as many rows are compared as were asked for. Where all are
    late, the run ends, and says that nothing is shown."""
    puller.pulled("prospects")
    for each in _ids(puller, "prospects")[:5]:
        puller.sandbox.store.update("prospects", each, {"title": "edited"})
    report = _verify(puller, "prospects", requests=50)
    late, compared = report.summary["late"], report.summary["compared"]
    assert late > 0
    assert compared == 50
    assert report.summary["requests"] == 2 + 50 + late
    assert report.summary["wrong"] == 0
    everything = _verify(puller, "prospects")
    assert [everything.summary[name] for name in ("late", "compared", "at_most")] == [5, 75, 0]
    for each in _ids(puller, "prospects"):
        puller.sandbox.store.update("prospects", each, {"title": "edited"})
    report = _verify(puller, "prospects", requests=20)  # at most a tenth more are looked up
    assert report.summary["requests"] == 24
    assert report.summary["compared"] == 0
    assert (report.summary["verdict"], report.exit_code) == ("too_few", 3)


def test_deleted_rows_are_late_where_a_complete_scan_has_seen_them(
    puller: Puller, between: Between
):
    """The next one flags them. Without one, no pull would: they are wrong."""
    puller.pulled("tasks")

    def has_more(path: str, body: Any) -> None:
        if path == "meetings":
            body["pagination"] = {"hasMore": True}

    between.change = has_more
    puller.pull("meetings")
    gone = [_ids(puller, name)[3] for name in ("tasks", "meetings")]
    puller.sandbox.store.delete("tasks", gone[0])
    puller.sandbox.store.delete("meetings", gone[1])
    between.change = lambda _path, _body: None
    report = _verify(puller, "tasks", "meetings")
    assert report.summary["resources"]["tasks"]["late"] == 1
    assert _differences(report) == {gone[1]: ["_hc_deleted_at"]}


def test_people_who_wait_in_the_inbox_are_late(puller: Puller):
    """An event has named them, and the next drain or pull looks them up."""
    puller.pulled("prospects")
    named, other = _ids(puller, "prospects")[:2]
    for each in (named, other):
        puller.sandbox.store.update("prospects", each, {"title": "edited"}, touch=False)
    with open_ledger(puller.settings) as ledger:
        inbox = open_inbox(puller.settings, ledger.database)
        arrival = Arrival(account_of(puller.settings), named, "prospect.updated")
        inbox.store([arrival], now_ms=1)
        inbox.close()
    report = _verify(puller, "prospects")
    assert _differences(report) == {other: ["title"]}
    assert report.summary["late"] == 1


def test_lists_without_look_ups_are_counted_apart(puller: Puller, between: Between):
    """A server may answer 405, or 404 for each row, whether it exists or not; the others are
    checked."""
    puller.pulled("prospects", "meetings")
    for status in (404, 405):
        between.answers["meetings/"] = (status, b'{"error": "x", "message": "x"}')
        report = _verify(puller, "prospects", "meetings")
        meetings = report.summary["resources"]["meetings"]
        assert meetings["why_not_checked"] == "the API has no call for single records of it"
        assert (meetings["compared"], report.summary["rows"]) == (0, 80)
        assert (report.summary["compared"], report.exit_code) == (80, 0)


def test_lists_whose_look_ups_fail_are_not_taken_for_verified(puller: Puller, between: Between):
    """A server in trouble: after five failures in a row the list is given up, the others are
    checked, and exit code 1 says that the run couldn't finish. What was compared is a sample, even
    if no other row could be."""
    puller.pulled("tasks", "meetings")
    between.answers["tasks/"] = (302, b"")
    report = _verify(puller, "tasks", "meetings")
    assert isinstance(report.error, Unreachable)
    assert "so tasks can't be verified now" in str(report.error)
    assert (report.exit_code, report.summary["status"]) == (1, "failed")
    found = {name: report.summary[name] for name in ("rows", "compared", "at_most", "confidence")}
    assert found == {"rows": 50, "compared": 20, "at_most": 0.139108, "confidence": 0.95}
    text = "\n".join(str(each) for each in verify_lines(report.summary))
    assert "0 of 20 differ: at most 14% of 50 rows are wrong" in text
    assert _verify(puller, "meetings").exit_code == 0


def test_a_row_that_cannot_be_read_is_not_checked(puller: Puller, between: Between):
    """It is neither right nor wrong."""
    puller.pulled("tasks")
    broken = _ids(puller, "tasks")[4]
    between.change = lambda path, _body: 403 if path == f"tasks/{broken}" else None
    report = _verify(puller, "tasks")
    assert [report.summary[name] for name in ("not_checked", "compared", "wrong")] == [1, 29, 0]
    assert report.exit_code == 0


def test_fields_that_only_look_ups_or_only_lists_return_are_left_out(
    puller: Puller, between: Between
):
    """They are named, since no row can be compared by them."""

    def more(path: str, body: Any) -> None:
        for item in body.get("items", []):
            item["ofLists"] = "x"
        if path.startswith("tasks/"):
            body["item"]["ofLookUps"] = "y"

    between.change = more
    puller.pull_ok("tasks")
    report = _verify(puller, "tasks")
    assert report.summary["resources"]["tasks"]["fields_left_out"] == ["of_lists", "of_look_ups"]
    assert report.summary["wrong"] == 0


def test_hashed_and_excluded_columns_are_compared_as_they_land(puller: Puller):
    """A hash is compared with the hash of what the API returns."""
    hidden = ResourceSettings(hash_columns=("email",), exclude_columns=("phone", "title"))
    puller.change(pull=PullSettings(prospects=hidden, hash_key=SecretStr("k" * 32)))
    puller.pull_ok("prospects")
    hashed, excluded = _ids(puller, "prospects")[:2]
    store = puller.sandbox.store
    store.update("prospects", hashed, {"email": "new@example.com"}, touch=False)
    store.update("prospects", excluded, {"phone": "+4712345678"}, touch=False)
    assert _differences(_verify(puller, "prospects")) == {hashed: ["email"]}


def test_rows_that_a_pull_brings_meanwhile_are_not_wrong(puller: Puller, between: Between):
    """A note has no time of its last edit: it is compared again with the copy as it is then."""
    puller.pulled("notes")
    edited = _ids(puller, "notes")[11]
    straight = puller.settings.model_copy(update={"base_url": puller.sandbox.url})
    beside = Puller(puller.sandbox, straight)

    def edit(path: str, _body: Any) -> None:
        if path == "notes":  # the count: the rows have been read by then
            between.change = lambda _path, _body: None
            puller.sandbox.store.update("notes", edited, {"body": "edited"})
            beside.pull_ok("notes", full=True)

    between.change = edit
    report = _verify(puller, "notes")
    assert _differences(report) == {}
    assert report.summary["late"] == 1
    assert beside.reports


def test_a_signal_ends_it_with_the_bound_of_what_was_read(puller: Puller):
    """Exit code 130, and what was compared before counts."""
    puller.pulled("prospects")

    class Stopping(Progress):
        def __init__(self, session: Session) -> None:
            self._session = session

        def show(self, state: ProgressState) -> None:
            if state.done >= 40:
                self._session.stop.signal_number = 2
                self._session.stop.set()

    request = VerifyRequest(("prospects",), 300)
    report = verify(puller.settings, request, Stopping, chance=random.Random(5))
    assert isinstance(report.error, Interrupted)
    assert report.exit_code == 130
    assert report.summary["compared"] == 40
    assert 0.01 < report.summary["at_most"] < 0.08
    assert report.summary["status"] == "stopped"


def test_before_the_first_pull_there_is_nothing_to_verify(puller: Puller):
    """No request is sent."""
    with pytest.raises(UsageError, match="hiringcenter pull"):
        _verify(puller)
    puller.pull_ok("notes")
    with pytest.raises(UsageError, match="No pull of tasks"):
        _verify(puller, "tasks")
    report = _verify(puller, "notes", "tasks")
    assert report.summary["resources"]["tasks"]["why_not_checked"] == "no pull of it has ended yet"


def test_the_run_is_in_the_history_without_ids(puller: Puller):
    """And lands in `_hc_runs` with the next pull; nothing else is written."""
    puller.pulled("prospects")
    copy = puller.settings.duckdb_path
    before = copy.read_bytes()
    altered = _ids(puller, "prospects")[0]
    puller.sandbox.store.update("prospects", altered, {"title": "altered"}, touch=False)
    report = _verify(puller, "prospects")
    assert copy.read_bytes() == before
    with open_ledger(puller.settings) as ledger:
        record = ledger.run_named(report.summary["run_id"])
    assert (record.kind, record.status, record.summary["wrong"]) == ("verify", "ok", 1)
    assert altered not in str(record)
    puller.pull_ok("notes")
    with duckdb.connect(str(copy), read_only=True) as connection:
        sql = "SELECT count(*) FROM hiringcenter._hc_runs WHERE run_id = ? AND kind = 'verify'"
        assert connection.execute(sql, [record.run_id]).fetchall() == [(1,)]


@pytest.mark.parametrize(("column", "data_type", "landed", "expected", "same"), [
    ("labels", "json", '["a","b"]', '["b","a"]', True),
    ("labels", "json", ["a", "a"], '["a"]', False),
    ("mentions", "json", '[{"a":1,"b":2}]', '[{"b":2.0,"a":1}]', True),
    ("mentions", "json", "[1,2]", "[2,1]", False),
    ("mentions", "json", "[true]", "[1]", False),
    ("pin", "bool", 1, True, True),
    ("pin", "bool", None, False, False),
    ("score", "double", 0.1, 0.1, True),
    ("count", "bigint", 7, 7, True),
    ("title", "text", "a ", "a", False),
])  # fmt: skip
def test_values_are_compared_as_destinations_return_them(
    column: str, data_type: str, landed: Any, expected: Any, same: bool
):
    """JSON by its value, labels in any order, and booleans where a database has only numbers."""
    assert is_same(column, data_type, landed, expected) is same
