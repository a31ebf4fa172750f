"""Events as a receiver would have noted them, without the receiver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from connector.webhooks.inbox import BEAT_S, Arrival, EventFacts, Inbox, account_of, open_inbox
from pipelines.pull.drain import DrainReport, drain
from pipelines.pull.pull_run import PullReport
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls
from tests.sync.pull.truth import expected, landed_duckdb, landed_postgres


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Followed:
    """An account whose events are received."""

    puller: Puller
    inbox: Inbox

    @property
    def account(self) -> str:
        return account_of(self.puller.settings)

    @property
    def facts(self) -> EventFacts:
        return self.inbox.facts(self.account)

    def waiting(self) -> list[str]:
        found = self.inbox.waiting(self.account, 10_000, now_ms=2**60)
        return [each.prospect_id for each in found]

    def name(self, *people: str, kind: str = "prospect.updated", ago_s: float = 0) -> None:
        """An event for each."""
        arrivals = [Arrival(self.account, each, kind) for each in people]
        self.inbox.store(arrivals, now_ms=now_ms() - int(ago_s * 1000))

    def beat(self, ago_s: float = 0) -> None:
        self.inbox.beat([self.account], now_ms=now_ms() - int(ago_s * 1000))

    def edit(self, person: str, *, named: bool = True, **changes: object) -> None:
        self.puller.sandbox.store.update("prospects", person, changes)
        if named:
            self.name(person)

    def drain(self) -> DrainReport:
        report = drain(self.puller.settings)
        assert report.error is None, report.error
        return report

    def trust(self) -> list[str]:
        """A full scan while a receiver is running and both events have come; all ids. The scan may
        be that of another test: then the receiver has been running since."""
        puller = self.puller
        people = [each["id"] for each in puller.sandbox.store.all("prospects")]

        def scan() -> PullReport:
            self.beat()
            self.name(people[0], kind="prospect.created")
            self.name(people[1])
            return puller.pull_ok("prospects", full=True)

        if puller.first_pulls is not None and puller.settings.ledger_url is None:
            self._copy(puller.first_pulls, scan)
        else:
            scan()
        assert self.waiting() == []
        puller.sandbox.clear_log()
        return people

    def _copy(self, first_pulls: FirstPulls, scan: Callable[[], PullReport]) -> None:
        def scan_and_close() -> PullReport:
            self.inbox = open_inbox(self.puller.settings)
            try:
                return scan()
            finally:
                self.inbox.close()

        self.inbox.close()
        began_s = first_pulls.followed(self.puller, scan_and_close)
        self.inbox = open_inbox(self.puller.settings)
        for ago_s in range(int(time.time() - began_s), 0, -round(BEAT_S)):
            self.beat(ago_s)
        self.beat()

    def asked(self, prefix: str = "/v2/prospects") -> list[str]:
        """Paths below the base that were requested since the log was cleared."""
        requests = self.puller.sandbox.requests
        return [each.path for each in requests if each.path.startswith(prefix)]

    def assert_true(self) -> None:
        """The prospects that readers see are those of the server."""
        url, sandbox = self.puller.postgres_url, self.puller.sandbox
        found = (
            landed_duckdb(self.puller.settings.duckdb_path, "prospects")
            if url is None
            else landed_postgres(url, "prospects")
        )
        assert found == expected(sandbox, "prospects")

    def scan(self) -> str:
        return str(self.puller.reports[-1].summary["resources"]["prospects"]["scan"])


@contextmanager
def followed(puller: Puller) -> Iterator[Followed]:
    found = Followed(puller, open_inbox(puller.settings))
    try:
        yield found
    finally:
        found.inbox.close()
