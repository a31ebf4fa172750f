"""Before-images: kept sealed, opened where they were kept, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.errors import UsageError
from connector.upsert.outbox.before_images import KEY_FILE, BeforeImages, undo_key
from connector.upsert.outbox.outbox_schema import MIGRATIONS, before_images

IMAGE = {"firstName": "Ada", "title": None}


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


def test_the_first_image_of_a_run_stays(database: Database):
    """What a run has changed itself is no image of before."""
    images = kept(database, b"k" * 32)
    with database.write() as connection:
        images.keep(connection, "run-1", "p1", {"title": "changed"}, at_ms=2_000)
        assert list(images.of_run(connection, "run-1")) == [("p1", IMAGE, None)]


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
    with database.read() as connection, pytest.raises(UsageError, match="Undo it where it was"):
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
