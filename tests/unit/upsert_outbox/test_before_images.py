"""Before-images: kept sealed, opened where they were kept, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.errors import UsageError
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.merge import Person
from connector.upsert.outbox.outbox_schema import MIGRATIONS, before_images
from connector.upsert.undoing import (
    KEY_FILE,
    BeforeImage,
    BeforeImages,
    image_before,
    undo_key,
)

IMAGE = BeforeImage({"firstName": "Ada", "title": None}, {"title": b"left"}, contact=("email", "a"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}", durable=False, suffix="-outbox")
    database.migrate("outbox", MIGRATIONS)
    yield database
    database.close()


def kept(database: Database, key: bytes) -> BeforeImages:
    images = BeforeImages(42, key)
    with database.write() as connection:
        images.keep(connection, "run-1", "p1", IMAGE, at_ms=1_000)
    return images


def test_an_image_is_found_by_its_run(database: Database):
    """With the run that has undone it, once one has."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        assert list(images.of_run(connection, "run-1")) == [("p1", IMAGE, None)]
        images.mark_undone(connection, "run-1", "p1", "run-2")
        assert list(images.of_run(connection, "run-1")) == [("p1", IMAGE, "run-2")]


def test_a_runs_own_change_isnt_a_before_image(database: Database):
    """Of two writes of one run to one person, the first knows what was there before; the second
    adds what it is the first to change, and what it has left there counts."""
    images, later = kept(database, b"k" * 32), {"title": "changed", "company": "Acme"}
    with database.write() as connection:
        cells = {"title": b"second", "company": b"new"}
        images.keep(connection, "run-1", "p1", BeforeImage(later, cells), at_ms=2_000)
        ((_, image, _),) = images.of_run(connection, "run-1")
    assert image.before == {**IMAGE.before, "company": "Acme"}
    assert image.left == cells


def test_what_the_answer_shows_is_what_a_run_has_left(database: Database):
    """The API may have made something else of what was sent; of other fields it says nothing."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        images.note_answer(connection, "run-1", "p1", {"title": b"shown", "company": b"other"})
        images.note_answer(connection, "run-2", "p1", {"title": b"no image"})
        ((_, image, _),) = images.of_run(connection, "run-1")
    assert image == replace(IMAGE, left={"title": b"shown"})


def test_another_machine_settles_a_write_and_leaves_its_image(database: Database):
    """It has no key to open it with."""
    kept(database, b"k" * 32)
    with database.write() as connection:
        BeforeImages(42, b"o" * 32).note_answer(connection, "run-1", "p1", {"title": b"shown"})
        assert list(BeforeImages(42, b"k" * 32).of_run(connection, "run-1")) == [
            ("p1", IMAGE, None)
        ]


def test_an_undo_that_is_undone_leaves_nothing_undone(database: Database):
    """What it had put back can be put back again."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        images.mark_undone(connection, "run-1", "p1", "run-2")
        images.keep(connection, "run-2", "p1", BeforeImage({"title": "Dr"}), at_ms=2_000)
        images.mark_undone(connection, "run-2", "p1", "run-3")
        assert list(images.of_run(connection, "run-1")) == [("p1", IMAGE, None)]


def test_an_image_is_made_of_what_goes_out_and_what_was_read():
    """Fields that change, the contact that doesn't, and what can't be read back."""
    hasher = Hasher(b"s" * 32)
    fields = {"firstName": "Ada", "email": "a@x.org", "phone": None, "title": "Dr", "labels": ["a"]}
    payload = {
        "firstName": " Ada", "email": "A@x.org", "phone": "+1 212 555 0100", "title": None,
        "labels": ["a", "b"], "city": "Bern", "update": True,
    }  # fmt: skip
    image = image_before(payload, Person("p1", fields, fresh=True), hasher.cell)
    assert image.before == {"phone": None, "title": "Dr", "labels": ["a"]}
    assert image.left == {name: hasher.cell(name, payload[name]) for name in image.before}
    assert (image.unread, image.contact) == (("city",), ("email", "a@x.org"))
    assert BeforeImage.from_bytes(image.to_bytes()) == image


def test_no_value_is_in_the_ledger(database: Database, tmp_path: Path):
    """Neither names nor values can be read without the key."""
    kept(database, b"k" * 32)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"run-1" in stored
    assert b"Ada" not in stored
    assert b"firstName" not in stored


def test_another_machine_says_so(database: Database):
    """Its key is another one."""
    kept(database, b"k" * 32)
    with database.read() as connection, pytest.raises(UsageError, match="there"):
        list(BeforeImages(42, b"o" * 32).of_run(connection, "run-1"))


def test_an_image_passes_for_no_other(database: Database):
    """Moved to another prospect's row, it isn't opened."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        connection.execute(sa.update(before_images).values(prospect_id="p2"))
        with pytest.raises(UsageError, match="altered"):
            list(images.of_run(connection, "run-1"))


def test_images_are_forgotten(database: Database):
    """Those of their scope that are older than the time given."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        images.forget(connection, before_ms=1_000)
        assert len(list(images.of_run(connection, "run-1"))) == 1
        images.forget(connection, before_ms=1_001)
        assert list(images.of_run(connection, "run-1")) == []


def test_the_key_is_private_and_stays(tmp_path: Path):
    """Readable by its user alone, the same at each use, nothing else left in the folder."""
    key = undo_key(tmp_path)
    assert undo_key(tmp_path) == key
    assert len(key) == 32
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
