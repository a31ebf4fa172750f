"""Any sequence of pushes, lost answers, crashes and waits ends where the last changed cell says."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from connector.errors import Unreachable
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig

PEOPLE = 3
FATES = st.sampled_from(["ok", "ok", "ok", "lost", "unsent", "crash before", "crash after"])


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One to four rows about three people, each by email, by phone, or by both."""
    chosen = []
    for _ in range(draw(st.integers(1, 4))):
        person, title = draw(st.integers(0, PEOPLE - 1)), draw(st.sampled_from("abc"))
        contacts = {"email": f"p{person}@example.org", "phone": f"+1415555010{person}"}
        by = draw(st.sampled_from([("email",), ("phone",), ("email", "phone")]))
        chosen.append({**{name: contacts[name] for name in by}, "title": title})
    return chosen


class Pushes(RuleBasedStateMachine):
    """The API keeps idempotency keys for ever; the process dies and answers are lost at will."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        url = f"sqlite:///{Path(self.folder.name) / 'ledger.db'}"
        self.rig = Rig(url, self.api, clock=self.clock, in_flight=2)
        both = [
            {"email": f"p{n}@example.org", "phone": f"+1415555010{n}", "title": "first"}
            for n in range(PEOPLE)
        ]
        self.rig.push(both)
        self.settled: dict[str, set[str]] = {}  # person → the last content of their rows
        self.titles: dict[str, str] = {}

    @rule(file=rows(), fates=st.lists(FATES, max_size=5), waits_h=st.sampled_from([0, 1, 11]))
    def push(self, file: list[dict[str, Any]], fates: list[str], waits_h: int) -> None:
        """A push that may die or fail, and the same file again until it goes through."""
        first = self.api.posts
        self.api.fate = lambda n: fates[n - first] if n - first < len(fates) else "ok"
        for _ in range(len(fates) + 1):
            try:
                pushed = self.rig.push(file)
            except (Crash, Unreachable):
                self.clock.advance(waits_h * 3600)
                continue
            if "failed" not in pushed.statuses.values():
                break
        else:
            pytest.fail("a push with answers didn't go through")
        self._check_ends(file)
        posts = self.api.posts
        assert set(self.rig.push(file).statuses.values()) == {"unchanged"}
        assert self.api.posts == posts

    def _check_ends(self, file: list[dict[str, Any]]) -> None:
        """Of a person's rows, the last cell that none of their rows had in the file before."""
        said: dict[str, list[str]] = {}
        for row in file:
            number = row["email"][1] if "email" in row else row["phone"][-1]
            said.setdefault(number, []).append(row["title"])
        for number, titles in said.items():
            new = [title for title in titles if title not in self.settled.get(number, {"first"})]
            self.titles[number] = new[-1] if new else self.titles.get(number, "first")
            self.settled[number] = set(titles)
            (prospect,) = [
                p for p in self.api.prospects.values() if p["email"] == f"p{number}@example.org"
            ]
            assert prospect["title"] == self.titles[number]

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        if not hasattr(self, "api"):
            return
        keys = [change.key for change in self.api.applied]
        assert len(keys) == len(set(keys))
        for id_ in self.api.prospects:
            own = [change.payload for change in self.api.applied if change.id == id_]
            assert all(one != other for one, other in pairwise(own))

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()
            self.folder.cleanup()


TestPushes = pytest.mark.slow(Pushes.TestCase)
TestPushes.settings = settings(
    max_examples=12,
    stateful_step_count=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
