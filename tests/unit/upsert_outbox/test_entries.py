"""Entries: what each source has settled, packed into one row, found by every contact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.budget.database import Database
from connector.upsert.outbox.entries import Entries, Entry, cells_of_row, packed, unpacked
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.outbox_schema import MIGRATIONS
from connector.upsert.rows.write_schema import PROSPECT_FIELDS

HASHER = Hasher(b"s" * 32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}", durable=False, suffix="-outbox")
    database.migrate("outbox", MIGRATIONS)
    yield database
    database.close()


def entry(alias: int, source: int, **changed: object) -> Entry:
    plain = Entry(alias, source, "p1", 1, b"names", b"content", b"", 1_000)
    return plain._replace(**changed)  # type: ignore[arg-type]


def test_cells_come_back_as_they_were_packed():
    """A set of values, a value and how it is shown, a field with one value."""
    base = {
        "title": frozenset((b"aaaaaa", b"bbbbbb")),
        "phone": frozenset((b"cccccc",)),
        "labels_add": frozenset((b"dddddd",)),
    }
    shown = {"phone": (b"cccccc", b"eeeeee"), "title": (b"bbbbbb", b"ffffff")}
    assert unpacked(packed(base, shown)) == (base, shown)
    assert unpacked(b"") == ({}, {})


def test_a_row_takes_seven_bytes_a_field():
    """However long its values are; `update` and the like aren't kept."""
    cells = cells_of_row({"title": "Agent" * 100, "city": "Oakland", "update": True}, HASHER)
    assert len(cells) == 14
    assert unpacked(cells)[0] == {
        "title": {HASHER.cell("title", "Agent" * 100)},
        "city": {HASHER.cell("city", "Oakland")},
    }


def test_every_field_that_is_written_has_a_code():
    """But those that say how the API is to treat a write."""
    says = dict.fromkeys(PROSPECT_FIELDS, "x")
    assert unpacked(cells_of_row(says, HASHER))[0].keys() == says.keys() - {"update", "muteWebhook"}


def test_one_value_has_one_hash():
    """Spellings that the API takes for one; another field's same text is another cell."""
    assert HASHER.cell("email", "Ada@X.org") == HASHER.cell("email", " ada@x.org")
    assert HASHER.cell("labels", ["b", "a"]) == HASHER.cell("labels", ["a", "b"])
    assert HASHER.cell("title", None) == HASHER.cell("title", "")
    assert HASHER.cell("title", "x") != HASHER.cell("city", "x")
    assert HASHER.cell("title", "x") != Hasher(b"t" * 32).cell("title", "x")


def test_a_source_has_one_number_and_is_new_until_a_push_ends(database: Database):
    """Sources of another account are others."""
    mine, others = Entries(42, HASHER), Entries(43, HASHER)
    with database.write() as connection:
        assert mine.number(connection, "in.csv") == 0
        number = mine.make_number(connection, "in.csv")
        assert mine.number(connection, "in.csv") == mine.make_number(connection, "in.csv") == number
        assert mine.is_new(connection, "in.csv")
        assert others.number(connection, "in.csv") == 0
        mine.end_push(connection, "in.csv", at_ms=5)
        assert not mine.is_new(connection, "in.csv")
        assert mine.numbers(connection) == {number}


def test_an_entry_is_found_by_every_contact_that_it_ever_had(database: Database):
    """Of every source; settled again, it is replaced, and its contacts stay."""
    entries = Entries(42, HASHER)
    with database.write() as connection:
        one, other = (entries.make_number(connection, source) for source in ("a", "b"))
        first, twin = entry(1, one), entry(2, other)
        entries.put(connection, "a", [(first, (1, 2))])
        entries.put(connection, "b", [(twin, (2,))])
        again = first._replace(cells=b"new", prospect_id=None)
        entries.put(connection, "a", [(again, (3,))])
        found = entries.find(connection, [1, 2, 3, 4])
    assert {alias: set(each) for alias, each in found.items()} == {
        1: {again}, 2: {twin, again}, 3: {again},
    }  # fmt: skip
