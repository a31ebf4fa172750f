"""Rows put aside: who is one person with whom, and how many equal rows stand above."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from hypothesis import given
from hypothesis import strategies as st

from connector.budget.database import Database
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.outbox import PROSPECTS, Write
from connector.upsert.outbox.staging import Glance, Staging
from connector.upsert.rows.row_checks import ValidRow

HASHER = Hasher(bytes(32))
NOTHING: Glance = (None, None)
Names = tuple[int | None, int | None, int | None]
NAME = st.none() | st.integers(1, 6)


@contextmanager
def staged(rows: Iterable[tuple[Write, Glance]]) -> Iterator[Staging]:
    """Rows put aside, all of them."""
    database = Database("postgresql://nowhere/there")  # it is asked for nothing
    with closing(Staging(database, HASHER, run_id="run", source="people.csv")) as staging:
        every = list(rows)
        staging.add([(_valid(write), write) for write, _ in every], [seen for _, seen in every])
        staging.join()
        yield staging


def row(
    number: int, email: int | None = None, phone: int | None = None, content: bytes = b""
) -> Write:
    return Write("run", "people.csv", number, 0, PROSPECTS, 0, email, phone, None, content, b"{}")


def _valid(write: Write) -> ValidRow:
    """A row that asks for nothing but its prospect."""
    return ValidRow(write.row_number, {}, None, None, [], [])


def people_by_hand(rows: list[Names]) -> list[set[int]]:
    """Connected components, the slow and obvious way; rows are numbered from 1."""
    groups: list[tuple[set[tuple[str, int]], set[int]]] = []
    for number, (email, phone, prospect) in enumerate(rows, start=1):
        contacts = {("contact", name) for name in (email, phone) if name is not None}
        names = contacts | ({("prospect", prospect)} if prospect is not None else set())
        touching = [group for group in groups if group[0] & names]
        groups = [group for group in groups if not group[0] & names]
        merged = (names.union(*(g[0] for g in touching)), {number}.union(*(g[1] for g in touching)))
        groups.append(merged)
    return sorted((group[1] for group in groups if len(group[1]) > 1), key=min)


@given(st.lists(st.tuples(NAME, NAME, NAME), max_size=30))
def test_rows_that_share_a_name_are_one_person(rows: list[Names]):
    """Directly or through other rows; everyone else is alone, and all are there, in order."""
    with staged(
        (row(number, email, phone), (prospect and str(prospect), None))
        for number, (email, phone, prospect) in enumerate(rows, start=1)
    ) as staging:
        people = [[row.row_number for row in person] for person in staging.people()]
    together = [person for person in people if len(person) > 1]
    alone = [number for person in people if len(person) == 1 for number in person]
    assert [set(person) for person in together] == people_by_hand(rows)
    assert all(person == sorted(person) for person in together)
    assert sorted(alone + [number for person in together for number in person]) == list(
        range(1, len(rows) + 1)
    )


def test_equal_rows_without_contact_are_counted():
    """The second of two equal rows is another person than the first."""
    contents = [b"jo", b"al", b"jo", b"jo"]
    rows = [(row(number, content=content), NOTHING) for number, content in enumerate(contents)]
    with staged(rows) as staging:
        aliases = [planned.write.row_alias for (planned,) in staging.people()]
    ordinals = [f"{content.hex()}:{n}" for content, n in zip(contents, [0, 0, 1, 2], strict=True)]
    assert aliases == [HASHER.alias("row", ordinal) for ordinal in ordinals]
