"""A sandbox with few prospects, and settings to push into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from connector.budget import locks
from connector.budget.database import Database
from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.destination.identity import prepare_state_dir, pull_lock_name
from tests.sync.push.pulled_once import PulledOnce

FIVE = SandboxOptions(prospects=5, notes=0, tasks=0, meetings=0)


@pytest.fixture(scope="session")
def pulled_five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulledOnce]:
    """For tests that are marked `pulled`."""
    with closing(PulledOnce(tmp_path_factory.mktemp("five"), FIVE)) as pulled:
        yield pulled


def _pulled(request: pytest.FixtureRequest) -> PulledOnce | None:
    is_marked = request.node.get_closest_marker("pulled") is not None
    return request.getfixturevalue("pulled_five") if is_marked else None


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if (pulled := _pulled(request)) is not None:
        yield pulled.begin()
        pulled.end()
        return
    with Sandbox(replace(FIVE)) as running:
        yield running


@pytest.fixture
def settings(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Settings:
    if (pulled := _pulled(request)) is not None:
        return pulled.settings
    return Settings(
        api_key=sandbox.api_key,
        base_url=sandbox.url,
        rate_limits="60000/60s",
        state_dir=tmp_path / "state",
        duckdb_path=tmp_path / "data.duckdb",
        http={"retry_total_s": 2.0},
        marts={"enabled": False},  # which have tests of their own
    )


@contextmanager
def results_waiting(settings: Settings) -> Iterator[None]:
    """A pull is running, so pushes leave their results to it or to the next one: loading them takes
    three times as long as a small push."""
    prepare_state_dir(settings)
    with (
        closing(Database(settings.resolved_ledger_url)) as database,
        locks.take_lock(database, pull_lock_name(settings), run_id="test"),
    ):
        yield


@pytest.fixture
def results_wait(request: pytest.FixtureRequest, settings: Settings) -> Iterator[None]:
    """`results_waiting` all the time, but not where a test is marked `lands`."""
    if request.node.get_closest_marker("lands"):
        yield
    else:
        with results_waiting(settings):
            yield


def person(name: str, **fields: Any) -> dict[str, Any]:
    """What HiringCenter has of a person with this first name."""
    given = {"firstName": name, "lastName": "X", "email": f"{name.lower()}@example.org"}
    blank = dict.fromkeys(("phone", "title", "company"))
    return {**blank, "labels": [], "currentStageId": "stg_new", **given, **fields}


TEAM = (
    person("Ada", title="Dr", company="Old"),
    person("Bob", title="Dr", company="Old"),
    person("Cyd", title="Dr"),
    person("Ann", title="Dr", phone="+12125550101", labels=["a"]),
    person("Dan", company="Old"),
    person("Fay", email=None, phone="+12125550102"),
)


@pytest.fixture(scope="session")
def pulled_team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulledOnce]:
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)
    with closing(PulledOnce(tmp_path_factory.mktemp("team"), options, TEAM)) as pulled:
        yield pulled


@dataclass(frozen=True)
class Team:
    """Just after a pull of `TEAM`. ids: by first name. run_id: the pull's."""

    sandbox: Sandbox
    settings: Settings
    run_id: str
    ids: Mapping[str, str]


@pytest.fixture
def team(pulled_team: PulledOnce) -> Iterator[Team]:
    sandbox = pulled_team.begin()
    ids = {each["firstName"]: str(each["id"]) for each in sandbox.store.all("prospects")}
    yield Team(sandbox, pulled_team.settings, pulled_team.run_id, ids)
    pulled_team.end()
