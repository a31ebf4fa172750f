"""Histories of what people and pushes do to each other, and the judgement at their end."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from connector.upsert.outbox.matching import same_value
from tests.merging.model_push import ModelLedger, ModelPush, Result
from tests.merging.people import (
    DROPPED,
    FIELDS,
    FileRow,
    HiringCenter,
    Killed,
    PulledCopy,
    as_kept,
)

HUMANS = 3
FIRST = ("Ann", "Bob", "Cyd")
FATES = ("ok",) * 12 + ("lost", "lost", "unsent", "killed before", "killed after", "refused")
Step = tuple[str, int, int, int]


def random_steps(chance: random.Random, count: int) -> list[Step]:
    kinds = (
        ["edit"] * 6 + ["recruit"] * 6 + ["push"] * 8 + ["pull"] * 4 + ["wait"] * 2
        + ["delete", "join", "steal", "rename", "drop", "sibling", "sibling"]
    )  # fmt: skip
    return [
        (chance.choice(kinds), *(chance.randrange(1 << 16) for _ in range(3)))  # type: ignore[misc]
        for _ in range(count)
    ]


@dataclass
class History:
    """Two files about three humans, some of whom HiringCenter has. ledger_url: pushes are those of
    the real planner, outbox and sender, over this ledger; else the model's."""

    setup: int = 0
    fresh_ms: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    with_faults: bool = True
    ledger_url: str | None = None

    def __post_init__(self) -> None:
        chance = random.Random(self.setup)
        self.center = HiringCenter(
            phone_first=chance.random() < 0.3,
            conflicts=chance.random() < 0.3,
            keys_ms=chance.choice([700_000, 10**12]),
        )
        self.copy, self.ledger, self.keys = PulledCopy(), ModelLedger(), itertools.count(1)
        self.numbers = itertools.count(1)
        self.real = None
        if self.ledger_url is not None:
            from tests.merging.real_push import RealPushes

            self.real = RealPushes(self.center, self.copy, self.ledger_url)
        self.names = ["crm.csv", "job"]
        self.files: list[list[FileRow]] = [[], []]
        self.results: list[Result | None] = [None, None]
        for human in range(HUMANS):
            if chance.random() < 0.6:
                known = self._cells(human)
                for name in FIELDS[2:]:
                    if chance.random() < 0.3:
                        known[name] = None
                self.center.recruit(human, **known)
            for file in (0, 1):
                if chance.random() < (0.9, 0.4)[file]:
                    self._add(file, human, chance.randrange(8))
        if chance.random() < 0.7:
            self.copy.pull(self.center, full=True)

    @staticmethod
    def _cells(human: int) -> dict[str, Any]:
        return {
            "firstName": FIRST[human],
            "lastName": "Lee",
            "email": f"e{human}@x.org",
            "phone": f"+141555501{human}",
            "title": "old",
        }

    def _add(self, file: int, human: int, shape: int) -> None:
        cells = self._cells(human)
        if shape == 1:
            del cells["phone"]
        if shape == 2:
            del cells["email"]
        if shape == 3:
            cells["title"] = "t1"
        if shape == 4:
            cells["phone"] = DROPPED
        self.files[file].append(FileRow(next(self.numbers), human, cells, dirty=set(cells)))

    # --- steps ---

    def step(self, step: Step) -> None:
        kind, one, two, three = step
        getattr(self, f"_{kind}")(one, two, three)

    def _edit(self, one: int, two: int, three: int) -> None:
        rows = self.files[0] + self.files[1]
        if rows:
            row = rows[one % len(rows)]
            name = ("title", "title", "title", "lastName", "email", "phone", "firstName")[two % 7]
            row.set(name, self._value(row.human, name, three))

    @staticmethod
    def _value(human: int, name: str, number: int) -> Any:
        values = {
            "title": ["old", "t1", "t2", "t3", "t4~"],
            "lastName": ["Lee", "Li", "Low"],
            "firstName": [FIRST[human], FIRST[human], f"{FIRST[human]}-X", "Zoe"],
            "email": [f"e{human}@x.org", f"f{human}@x.org", f"g{human}@x.org"],
            "phone": [f"+141555501{human}", f"+141555502{human}", DROPPED],
        }[name]
        return values[number % len(values)]

    def _recruit(self, one: int, two: int, three: int) -> None:
        if person := self._anybody(one):
            name = ("title", "title", "title", "lastName", "email", "phone", "firstName")[two % 7]
            human = min(person.humans)
            value = f"r{three % 4}" if name == "title" else self._value(human, name, three)
            if name in ("email", "phone"):
                value = (
                    value,
                    f"new{human}@x.org" if name == "email" else f"+141555503{human}",
                    None,
                )[three // 8 % 3]
            self.center.edit(person, name, None if value == DROPPED else value)

    def _anybody(self, number: int) -> Any:
        people = list(self.center.people.values())
        return people[number % len(people)] if people else None

    def _delete(self, one: int, two: int, three: int) -> None:
        if person := self._anybody(one):
            self.center.delete(person)

    def _join(self, one: int, two: int, three: int) -> None:
        stays, goes = self._anybody(one), self._anybody(two)
        if stays and goes:
            self.center.merge_people(stays, goes)

    def _steal(self, one: int, two: int, three: int) -> None:
        """A recruiter gives one person the contact of another."""
        gets, had = self._anybody(one), self._anybody(two)
        name = ("email", "phone")[three % 2]
        if gets and had and gets is not had and had.fields[name]:
            value = had.fields[name]
            if three // 2 % 2:
                self.center.edit(had, name, None)
            self.center.edit(gets, name, value)

    def _pull(self, one: int, two: int, three: int) -> None:
        self.copy.pull(self.center, full=bool(one % 2))

    def _wait(self, one: int, two: int, three: int) -> None:
        self.center.now_ms += (60_000, 960_000, 86_400_000)[one % 3]

    def _rename(self, one: int, two: int, three: int) -> None:
        self.names[one % 2] = f"file{two}.csv"
        for row in self.files[one % 2]:
            row.home = None  # where its contact changes at once, nothing says who it is

    def _drop(self, one: int, two: int, three: int) -> None:
        rows = self.files[one % 2]
        if rows:
            del rows[two % len(rows)]

    def _sibling(self, one: int, two: int, three: int) -> None:
        self._add(one % 2, two % HUMANS, three % 8)

    def _push(self, one: int, two: int, three: int) -> None:
        chance = random.Random(two)
        fates = [chance.choice(FATES) for _ in range(6)] if self.with_faults and three % 2 else []
        self.push(one % 2, fates)

    def push(self, file: int, fates: list[str]) -> Result | None:
        self.center.fates = list(fates)
        if self.real is not None:
            self.results[file] = self.real.push(self.names[file], self.files[file])
            self.center.fates = []
            return self.results[file]
        push = ModelPush(
            self.center, self.copy, self.ledger, self.names[file], self.fresh_ms,
            keys=self.keys, **self.settings,
        )  # fmt: skip
        self.results[file] = None
        for row in self.files[file]:
            row.has_siblings = [each.human for each in self.files[file]].count(row.human) > 1
        with suppress(Killed):
            self.results[file] = push.run(self.files[file])
        self.center.fates = []
        return self.results[file]

    # --- the end ---

    def end(self) -> list[str]:
        """What is wrong, after some quiet rounds of a pull and a push of each file."""
        center = self.center
        for _ in range(5):
            center.now_ms += 86_400_000
            self.copy.pull(center, full=True)
            posts = center.posts
            for file in (0, 1):
                self.push(file, [])
        faults = list(center.faults)
        if center.posts != posts:
            faults.append("never rests")
        for rows, result in zip(self.files, self.results, strict=True):
            assert result is not None
            faults += [
                f"in silence: row {row.number} {name}={row.cells[name]!r}: {result.status}"
                for row in rows
                for name in row.cells
                if row.cells[name] is not None
                and not self._is_accounted_for(row, name, rows, result)
            ]
        return faults

    def _is_accounted_for(
        self, row: FileRow, name: str, rows: list[FileRow], result: Result
    ) -> bool:
        if (row.number, name) in result.reported or result.status[row.number] == "kept whole":
            return True
        wanted = as_kept(name, row.cells[name])
        people = [
            each
            for each in self.center.people.values()
            if row.human in each.humans or each.id == row.home
        ]
        return any(same_value(name, wanted, person.fields[name]) for person in people)


def judged(setup: int, steps: list[Step], **options: Any) -> list[str]:
    history = History(setup, **options)
    try:
        for step in steps:
            history.step(step)
        return history.end()
    finally:
        if history.real is not None:
            history.real.close()


def shrunk(setup: int, steps: list[Step], kind: str, **options: Any) -> list[Step]:
    """The steps that are needed for a fault of this kind."""

    def fails(some: list[Step]) -> bool:
        return any(each.startswith(kind) for each in judged(setup, some, **options))

    size = len(steps)
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            if fails(fewer):
                steps = fewer
            else:
                start += size
        size //= 2
    return steps


def survey(count: int, length: int = 30, first: int = 0, **options: Any) -> dict[str, list[int]]:
    """Kind of fault → the histories that end with it."""
    found: dict[str, list[int]] = {}
    for number in range(first, first + count):
        steps = random_steps(random.Random(number), length)
        for kind in {fault.partition(":")[0] for fault in judged(number, steps, **options)}:
            found.setdefault(kind, []).append(number)
    return found


if __name__ == "__main__":
    import sys
    import time

    began_s = time.monotonic()
    first, count, fresh_ms = (int(each) for each in sys.argv[1:])
    found = survey(count, first=first, fresh_ms=fresh_ms)
    print({kind: (len(numbers), numbers[:5]) for kind, numbers in found.items()})
    print(f"{time.monotonic() - began_s:.1f} s")
