"""A sandbox and a destination for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.settings import MartSettings, PullSettings, RateLimit, Settings
from pipelines.pull.pull_run import PullReport, Wanted, pull
from tests.sync.pull.between import Between
from tests.sync.pull.first_pulls import DATABASE, FirstPulls, make_database
from tests.sync.pull.truth import Rows, all_duckdb, all_postgres, assert_equal_to_truth


@dataclass
class Puller:
    """Pulls from one sandbox into one destination, any number of times.

    lists: that are pulled and compared where a call names none. Each costs time, and few tests are
    about all of them.
    """

    sandbox: Sandbox
    settings: Settings
    postgres_url: str | None = None
    lists: tuple[str, ...] = RESOURCES
    reports: list[PullReport] = field(default_factory=list)
    first_pulls: FirstPulls | None = None
    between: Between | None = None

    def pull(self, *resources: str, full: bool = False, **wanted: Any) -> PullReport:
        names = resources or self.lists
        report = pull(self.settings, Wanted(names, full=full, **wanted))
        self.reports.append(report)
        return report

    def pull_ok(self, *resources: str, full: bool = False, **wanted: Any) -> PullReport:
        report = self.pull(*resources, full=full, **wanted)
        assert report.error is None, report.error
        return report

    def pulled(self, *resources: str) -> PullReport:
        """As `pull_ok`, as the first step of a test that isn't about a first pull: what it leaves
        is copied from that of the first test with the same one."""
        assert self.first_pulls is not None
        return self.first_pulls.pulled(self, resources or self.lists)

    def counts(self, name: str) -> dict[str, int]:
        """rows_read, rows_written or rows_deleted of the last pull, by resource."""
        found = self.reports[-1].summary["resources"]
        return {resource: facts[name] for resource, facts in found.items()}

    def landed(self) -> dict[str, Rows]:
        if self.postgres_url is not None:
            return all_postgres(self.postgres_url, self.lists)
        return all_duckdb(self.settings.duckdb_path, self.lists)

    def assert_true(self) -> None:
        assert_equal_to_truth(self.sandbox, self.landed())

    def change(self, **changes: Any) -> None:
        """Change settings for later pulls."""
        self.settings = self.settings.model_copy(update=changes)

    def change_pull(self, **changes: Any) -> None:
        self.change(pull=self.settings.pull.model_copy(update=changes))


MakePuller = Callable[..., Puller]


def settings_for(sandbox: Sandbox, folder: Path, **changes: Any) -> Settings:
    return Settings(
        **{
            "api_key": SecretStr(sandbox.api_key),
            "base_url": sandbox.url,
            "state_dir": folder / "state",
            "duckdb_path": folder / "data" / "hc.duckdb",
            "rate_limits": (RateLimit(1_000_000, 60.0),),
            "pull": PullSettings(),
            "marts": MartSettings(enabled=False),  # which have tests of their own
            **changes,
        }
    )


@pytest.fixture(scope="session")
def all_first_pulls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstPulls]:
    kept = FirstPulls(tmp_path_factory.mktemp("first_pulls"))
    yield kept
    kept.close()


@pytest.fixture
def first_pulls(all_first_pulls: FirstPulls) -> FirstPulls:
    all_first_pulls.empty_place()
    return all_first_pulls


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=300, notes=200, tasks=120, meetings=70)
    with first_pulls.sandbox(options) as running:
        yield running


@pytest.fixture
def puller(sandbox: Sandbox, first_pulls: FirstPulls) -> Puller:
    """Into DuckDB."""
    return Puller(sandbox, settings_for(sandbox, first_pulls.place), first_pulls=first_pulls)


@pytest.fixture
def between(puller: Puller, first_pulls: FirstPulls) -> Iterator[Between]:
    proxy = puller.between = first_pulls.between(puller.sandbox.url)
    puller.change(base_url=proxy.url)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


@pytest.fixture
def postgres_puller(
    sandbox: Sandbox,
    first_pulls: FirstPulls,
    postgres_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Puller:
    """Into a database of PostgreSQL that tests have one after the other."""
    url = make_database(postgres_server, DATABASE)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(url))
    settings = settings_for(sandbox, first_pulls.place, destination="postgres")
    return Puller(sandbox, settings, url, first_pulls=first_pulls)


@pytest.fixture(params=["puller", "postgres_puller"], ids=["duckdb", "postgres"])
def any_puller(request: pytest.FixtureRequest) -> Puller:
    """Into each tested destination."""
    found: Puller = request.getfixturevalue(request.param)
    return found


def dlt_credentials(url: str) -> str:
    """`url` (a socket of this machine) as dlt takes it: with a host and a password."""
    parsed = sa.make_url(url)
    named = parsed.set(host=parsed.host or "localhost", password=parsed.password or "unused")
    return named.render_as_string(hide_password=False)
