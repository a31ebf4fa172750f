"""What a push after a pull costs in requests, also during a pull that publishes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import push
from pipelines.running.progress import Progress, ProgressState
from tests.sync.push.conftest import results_waiting
from tests.sync.push.pulled_once import PulledOnce

_PEOPLE, _PAGE_ROWS = 30, 3
_PAGES = _PEOPLE // _PAGE_ROWS
_FIELDS = ("firstName", "lastName", "email", "title", "company")
_EMPTY = {"notes": 0, "tasks": 0, "meetings": 0}


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulledOnce]:
    """Thirty people on ten pages, pulled."""
    limits = {"prospects": _PAGE_ROWS}
    options = SandboxOptions(prospects=0, **_EMPTY, max_limits=limits)
    people = [
        (f"Ada {chr(ord('a') + n)}", "Lovelace", f"p{n}@example.org", "Agent", "Acme")
        for n in range(_PEOPLE)
    ]
    with closing(
        PulledOnce(
            tmp_path_factory.mktemp("thirty"),
            options,
            [dict(zip(_FIELDS, person, strict=True)) for person in people],
            pull={"page_size": _PAGE_ROWS},
        )
    ) as pulled:
        yield pulled


@pytest.fixture
def sandbox(thirty: PulledOnce) -> Iterator[Sandbox]:
    yield thirty.begin()
    thirty.end()


@pytest.fixture
def settings(thirty: PulledOnce) -> Settings:
    return thirty.settings


def write(folder: Path, sandbox: Sandbox, edited: Collection[int] = ()) -> Path:
    """A file of everyone as HiringCenter has them, some with another title."""
    path = folder / "people.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, _FIELDS, extrasaction="ignore")
        writer.writeheader()
        for person in sandbox.store.all("prospects"):
            title = "Partner" if _number(person["email"]) in edited else person["title"]
            writer.writerow({**person, "title": title})
    return path


def _number(email: str) -> int:
    return int(email.partition("@")[0][1:])


def make_old(settings: Settings) -> None:
    """As if the last pull was yesterday's."""
    settings.duckdb_path.chmod(0o600)
    with duckdb.connect(str(settings.duckdb_path)) as copy:
        copy.execute(
            f"UPDATE {settings.dataset}._hc_freshness SET "
            "last_complete_at = last_complete_at - INTERVAL 1 DAY, "
            "last_pull_at = last_pull_at - INTERVAL 1 DAY"
        )


def pulled(settings: Settings) -> None:
    assert pull(settings, Wanted(("prospects",))).error is None


def pushed(settings: Settings, path: Path, progress: Progress | None = None) -> PushReport:
    request = PushRequest(file=str(path))
    if progress is not None:
        return push(settings, request, lambda _: progress)
    with results_waiting(settings):
        return push(settings, request)


def requests(sandbox: Sandbox) -> Counter[str]:
    return Counter(
        each.method
        for each in sandbox.requests
        if each.path.removeprefix("/v2").startswith("/prospects")
    )


def titles(sandbox: Sandbox) -> dict[int, str]:
    return {_number(each["email"]): each["title"] for each in sandbox.store.all("prospects")}


@pytest.mark.parametrize(
    ("is_old", "edits", "looks"),
    [(False, 5, 0), (True, 5, 5), (True, 2 * _PAGES, _PAGES)],
    ids=["fresh copy", "old copy", "old copy and many edits"],
)
def test_n_edits_are_n_posts(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, is_old: bool, edits: int, looks: int
):
    """With an old copy, each person is looked at first; where they are more than a complete scan
    has pages, by one scan. The same file again costs nothing."""
    if is_old:
        make_old(settings)
    path = write(tmp_path, sandbox, edited=range(edits))
    sandbox.clear_log()
    report = pushed(settings, path)
    assert (report.summary["updated"], report.summary["unchanged"]) == (edits, _PEOPLE - edits)
    assert requests(sandbox) == Counter(POST=edits, GET=looks)
    assert {n for n, title in titles(sandbox).items() if title == "Partner"} == set(range(edits))
    sandbox.clear_log()
    again = pushed(settings, path)
    assert (again.exit_code, again.summary["unchanged"]) == (0, _PEOPLE)
    assert requests(sandbox) == Counter()


@pytest.mark.parametrize(("is_old", "looks"), [(False, 0), (True, 3)])
def test_a_file_without_names_changes_people_and_creates_no_one(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, *, is_old: bool, looks: int
):
    """`email,title`: two are changed under their own names, one is as the file says, and the one
    whom HiringCenter doesn't have is rejected. Only an old copy has them looked up."""
    if is_old:
        make_old(settings)
    path = tmp_path / "titles.csv"
    people = [("p0@example.org", "Partner"), ("p1@example.org", "Partner")]
    people += [("p2@example.org", "Agent"), ("nobody@example.org", "Partner")]
    path.write_text("email,title\n" + "".join(f"{email},{title}\n" for email, title in people))
    names = {each["id"]: each["firstName"] for each in sandbox.store.all("prospects")}
    sandbox.clear_log()
    report = pushed(settings, path)
    counts = {name: report.summary[name] for name in ("updated", "unchanged", "rejected")}
    assert counts == {"updated": 2, "unchanged": 1, "rejected": 1}
    wanted = Counter(POST=2, GET=looks) if looks else Counter(POST=2)
    assert requests(sandbox) == wanted
    assert {n for n, title in titles(sandbox).items() if title == "Partner"} == {0, 1}
    assert {each["id"]: each["firstName"] for each in sandbox.store.all("prospects")} == names


class _PullsOnce(Progress):
    """Lets a recruiter edit someone and a pull publish that, once, while a push is planning or
    sending: between its steps, when it shows how far it has come."""

    def __init__(self, settings: Settings, sandbox: Sandbox, *, is_sending: bool) -> None:
        self._settings, self._sandbox, self._is_sending = settings, sandbox, is_sending
        self.has_pulled = False

    def show(self, state: ProgressState) -> None:
        if not self.has_pulled and (state.total is not None) is self._is_sending:
            self.has_pulled = True
            for person in self._sandbox.store.all("prospects"):
                if _number(person["email"]) in (0, 29):
                    self._sandbox.store.update("prospects", person["id"], {"company": "Edited"})
            pulled(self._settings)


@pytest.mark.parametrize("is_sending", [False, True], ids=["planning", "sending"])
def test_a_pull_publishes_during_a_push(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, is_sending: bool
):
    """Both end well; what recruiters edited meanwhile stands, in rows that were sent and in rows
    that weren't, then and after the next push of the same file."""
    one_by_one = settings.writes.model_copy(update={"max_in_flight": 1})
    settings = settings.model_copy(update={"writes": one_by_one})
    path = write(tmp_path, sandbox, edited=range(4))
    beside = _PullsOnce(settings, sandbox, is_sending=is_sending)
    report = pushed(settings, path, beside)
    assert beside.has_pulled
    assert (report.exit_code, report.summary["updated"]) == (0, 4)
    pulled(settings)
    sandbox.clear_log()
    again = pushed(settings, path)
    assert (again.exit_code, again.summary["unchanged"]) == (0, _PEOPLE)
    assert again.summary["kept"] == 2
    assert requests(sandbox) == Counter()
    people = {_number(each["email"]): each for each in sandbox.store.all("prospects")}
    assert {n for n in people if people[n]["company"] == "Edited"} == {0, 29}
    assert {n for n in people if people[n]["title"] == "Partner"} == set(range(4))


def test_nothing_read_counts_as_fresh_for_long_enough(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """With `writes.fresh_s = 0`, everyone is looked up just before they are changed: a scan would
    be as old as the copy."""
    always = settings.writes.model_copy(update={"fresh_s": 0.0})
    settings = settings.model_copy(update={"writes": always})
    path = write(tmp_path, sandbox, edited=range(2 * _PAGES))
    sandbox.clear_log()
    assert pushed(settings, path).summary["updated"] == 2 * _PAGES
    assert requests(sandbox) == Counter(POST=2 * _PAGES, GET=2 * _PAGES)
