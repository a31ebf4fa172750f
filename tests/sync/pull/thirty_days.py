"""Thirty days of pulls in simulated time, of people who move and pulls that are killed."""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from freezegun import freeze_time
from pydantic import SecretStr

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import ResourceSettings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.running.progress import Progress, ProgressState
from tests.sync.pull.between import Between
from tests.sync.pull.conftest import Puller, settings_for
from tests.sync.pull.truth import assert_histories_fit

STAGES = ("New", "Called", "Met", "Offer", "Hired", "Lost")
Content = tuple[Any, ...]
"""Stage, and sorted labels; of a task, its text and when it was done (ms). None: deleted."""


class Killed(BaseException):
    """The process has ended."""


class Killing(Progress):
    """Ends the process after some portions of pages have landed."""

    def __init__(self, after: int) -> None:
        self._left = after

    def show(self, _: ProgressState) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed


def thirty_days(folder: Path, *, every: timedelta, moves: int, seed: int = 7) -> ThirtyDays:
    """Thirty days of forty people and ten tasks, in pages of ten."""
    options = SandboxOptions(
        prospects=40, tasks=10, notes=0, meetings=0, max_limits={"prospects": 10, "tasks": 10}
    )
    with Sandbox(options) as sandbox:
        between = Between(sandbox.url)
        try:
            puller = Puller(sandbox, settings_for(sandbox, folder, base_url=between.url))
            month = ThirtyDays(puller, between, every, moves, seed)
            month.run()
        finally:
            between.server.shutdown()
            between.server.server_close()
    return month


@dataclass
class ThirtyDays:
    """A server whose people change, and what they really were at any time.

    every: between two pulls. moves: changes between two pulls, on average.
    """

    puller: Puller
    between: Between
    every: timedelta
    moves: int
    seed: int
    truth: dict[tuple[str, str], list[tuple[datetime, Content | None]]] = field(
        default_factory=dict
    )
    pulls: list[tuple[datetime, bool]] = field(default_factory=list)
    """When, and whether all was read."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._deleted: list[dict[str, Any]] = []
        self._adds_field = self._turns_labels = False
        self.between.change = self._change_answer

    def run(self) -> None:
        """The first half with the settings as they are; then columns are hidden and shown again,
        a field appears that is empty, and the server lists labels in another order.

        The first pull is before time is frozen: what is imported then would break.
        """
        begin = self._now()
        self._note_all(begin)
        self._pull(may_die=False)
        with freeze_time(self._now() + self.every, real_asyncio=True) as clock:
            while self._now() < begin + timedelta(days=30):
                day = (self._now() - begin).days
                self._adds_field, self._turns_labels = day >= 12, day >= 16
                own = {}
                if 18 <= day < 26:
                    own = {"hash_columns": ("email",), "exclude_columns": ("phone",)[day >= 22 :]}
                self.puller.change_pull(prospects=ResourceSettings(**own), hash_key=SecretStr("k"))
                self._pull()
                until = self._now() + self.every * self._chance.uniform(0.7, 1.3)
                for _ in range(self._chance.randrange(2 * self.moves + 1)):
                    clock.tick((until - self._now()) * self._chance.uniform(0, 0.5))
                    self._move()
                clock.move_to(until)
            self._pull(may_die=False)

    def _pull(self, *, may_die: bool = True) -> None:
        dies = may_die and (self._chance.random() < 0.2 or len(self.pulls) == 3)
        killing = Killing(self._chance.randrange(2)) if dies else Progress()
        self.puller.change_pull(chunk_pages=1 if dies else None)
        names = ("prospects", "tasks")
        with suppress(Killed):
            report = pull(self.puller.settings, Wanted(names), lambda _: killing)
            assert report.error is None, report.error
            assert_histories_fit(self.puller.settings.duckdb_path)
            scans = report.summary["resources"].values()
            is_whole = all(each["complete"] and "resume" not in each["reason"] for each in scans)
            self.pulls.append((self._now(), is_whole))
            return
        self.pulls.append((self._now(), False))

    # --- what happens ---------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.now(UTC)

    def _change_answer(self, path: str, body: Any) -> None:
        for item in body.get("items", []) if path == "prospects" else []:
            if self._adds_field:
                item["office"] = None
            if self._turns_labels:
                item["labels"] = item["labels"] and sorted(item["labels"], reverse=True)

    def _note_all(self, at: datetime) -> None:
        for resource in ("prospects", "tasks"):
            for record in self.puller.sandbox.store.all(resource):
                self.truth[resource, record["id"]] = [(at, content_of(resource, record))]

    def _note(self, resource: str, record: dict[str, Any], *, deleted: bool = False) -> None:
        content = None if deleted else content_of(resource, record)
        self.truth.setdefault((resource, record["id"]), []).append((self._now(), content))

    def _move(self) -> None:
        store, chance = self.puller.sandbox.store, self._chance
        what = chance.random()
        if what < 0.1 and len(self._deleted) < 5:
            gone = chance.choice(store.all("prospects"))
            store.delete("prospects", gone["id"])
            self._deleted.append(gone)
            self._note("prospects", gone, deleted=True)
        elif what < 0.2 and self._deleted:
            back = self._deleted.pop(chance.randrange(len(self._deleted)))
            self._note("prospects", store.create("prospects", back))
        elif what < 0.3:
            new = {"firstName": "N", "currentStage": "New", "labels": ["a", "b"]}
            self._note("prospects", store.create("prospects", new))
        else:
            resource = "tasks" if what < 0.45 else "prospects"
            one = chance.choice(store.all(resource))
            if resource == "tasks":
                changes = {"completedAt": None if one["completedAt"] else 1_700_000_000_000}
            else:
                changes = {"currentStage": chance.choice(STAGES)}
                if chance.random() < 0.3:
                    changes["labels"] = chance.choice([[], ["a"], ["b", "a"], ["a", "b"], None])
            self._note(resource, store.update(resource, one["id"], changes, touch=False))

    # --- what must be in the histories ----------------------------------------------------------

    def check(self) -> int:
        """That every change which two scans bracket is there once, its true time within its
        bounds, and nothing else; returns how many there are."""
        with duckdb.connect(str(self.puller.settings.duckdb_path), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = {
                resource: _versions(connection, resource) for resource in ("prospects", "tasks")
            }
        changes = 0
        for (resource, id_), truth in self.truth.items():
            versions = found[resource].pop(id_, [])
            changes += self._check_row(truth, versions)
        assert not any(found.values()), "rows that never were"
        return changes

    def _check_row(
        self, truth: list[tuple[datetime, Content | None]], versions: list[Version]
    ) -> int:
        """How many changes the row's versions show."""
        before: Version | None = None
        for version in versions:
            if before is not None:
                assert version.after is not None
                is_gap = before.to is not None and before.to < version.begin
                assert is_gap or before.content != version.content, "a phantom"
                assert any(
                    version.after < at <= version.before and content == version.content
                    for at, content in truth
                ), (truth, version)
            before = version
        for at, is_complete in self.pulls:
            there = _at(truth, at)
            open_then = [each for each in versions if each.is_open(at)]
            if is_complete:
                assert [each.content for each in open_then] == ([there] if there else [])
        return max(0, len(versions) - 1)


@dataclass(frozen=True)
class Version:
    content: Content
    begin: datetime
    to: datetime | None
    after: datetime | None
    before: datetime

    def is_open(self, at: datetime) -> bool:
        return self.begin <= at and (self.to is None or at < self.to)


def content_of(resource: str, record: dict[str, Any]) -> Content:
    if resource == "tasks":
        return (record["task"], record["completedAt"])
    return _prospect(record["currentStage"], record.get("labels"))


def _prospect(stage: str | None, labels: list[str] | None) -> Content:
    return (stage, None if labels is None else tuple(sorted(labels)))


def _versions(connection: duckdb.DuckDBPyConnection, resource: str) -> dict[str, list[Version]]:
    content = "[task, epoch_ms(completed_at)::VARCHAR]"
    if resource == "prospects":
        content = "[current_stage, labels::VARCHAR]"
    found: dict[str, list[Version]] = {}
    for id_, cells, *times in connection.execute(
        f"SELECT id, {content}, _hc_valid_from, _hc_valid_to, _hc_changed_after, "
        f"_hc_changed_before FROM hiringcenter.{resource}_history ORDER BY id, _hc_valid_from"
    ).fetchall():
        found.setdefault(id_, []).append(Version(_content(resource, cells), *times))
    return found


def _content(resource: str, cells: list[Any]) -> Content:
    if resource == "tasks":
        return (cells[0], cells[1] and int(cells[1]))
    return _prospect(cells[0], json.loads(cells[1]) if cells[1] else None)


def _at(truth: list[tuple[datetime, Content | None]], at: datetime) -> Content | None:
    place = bisect_right(truth, at, key=lambda each: each[0])
    return truth[place - 1][1] if place else None
