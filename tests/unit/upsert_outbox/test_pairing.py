"""Budget and outbox of one ledger: what each notices when the other isn't the one it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.ledger_schema import key_id
from connector.errors import OutboxLost
from connector.upsert.outbox.outbox_schema import receipts
from connector.upsert.outbox.pairing import OpenOutbox, count_push, open_outbox
from tests.unit.test_ledger_failures import rows_seen_by_another_process

UNTIL_MS = 1_760_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Database]:
    """A SQLite ledger that has pushed once."""
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        pushed(ledger)
        yield ledger


def opened(ledger: Database, *, new_ledger: bool = False) -> OpenOutbox:
    return open_outbox(ledger, look_first_until_ms=UNTIL_MS, new_ledger=new_ledger)


def pushed(ledger: Database) -> None:
    key_id("key", ledger)
    with closing(opened(ledger)) as outbox:
        count_push(ledger, outbox.database)


def outbox_path(ledger: Database) -> Path:
    assert ledger.path is not None
    return ledger.path.with_name("ledger-outbox.db")


def vanish(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def empty(path: Path) -> None:
    vanish(path)
    path.touch()


def be_damaged(path: Path) -> None:
    vanish(path)
    path.write_bytes(b"no database at all" * 100)


def be_a_folder(path: Path) -> None:
    vanish(path)
    (path / "inside").mkdir(parents=True)


def be_another(path: Path) -> None:
    """That of a ledger elsewhere."""
    folder = path.parent / "elsewhere"
    with closing(Database(f"sqlite:///{folder / 'ledger.db'}")) as other:
        pushed(other)
    vanish(path)
    (folder / "ledger-outbox.db").replace(path)


def be_older(path: Path) -> None:
    """A copy from before the last push."""
    copy = shutil.copy(path, path.parent / "backup.db")
    with closing(Database(f"sqlite:///{path.parent / 'ledger.db'}")) as ledger:
        pushed(ledger)
    vanish(path)
    shutil.copy(copy, path)


def lose_tables(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE outbox_receipts"))
    engine.dispose()


LOSSES: dict[str, tuple[Callable[[Path], None], str]] = {
    "vanished": (vanish, "has vanished"),
    "emptied": (empty, "is empty"),
    "damaged": (be_damaged, "is damaged"),
    "another": (be_another, "was replaced"),
    "older": (be_older, "is an older copy"),
    "tables": (lose_tables, "has lost tables"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_an_outbox_that_is_not_the_ledgers_own_is_refused_with_the_ways_out(
    ledger: Database, loss: str
):
    """Whatever is there stays as it is, until a new one is asked for; it is kept even then."""
    lose, words = LOSSES[loss]
    lose(outbox_path(ledger))
    before = outbox_path(ledger).read_bytes() if outbox_path(ledger).exists() else None
    for _ in range(2):
        with pytest.raises(OutboxLost, match=words) as caught:
            opened(ledger)
        assert caught.value.exit_code == 2
        for way_out in ("HIRINGCENTER_LEDGER_URL", "put it back", "--new-ledger"):
            assert way_out in str(caught.value)
    with closing(opened(ledger, new_ledger=True)) as outbox:
        assert (outbox.look_first_ms, outbox.started_now) == (UNTIL_MS, True)
        count_push(ledger, outbox.database)
    kept = list(outbox_path(ledger).parent.glob("*.lost-*.db"))
    assert [file.read_bytes() for file in kept] == ([] if before is None else [before])
    with closing(opened(ledger)) as outbox:
        assert (outbox.look_first_ms, outbox.started_now) == (UNTIL_MS, False)


def damage_receipts(ledger: Database) -> None:
    """Many receipts, whose pages are overwritten; what an outbox is opened by stays."""
    with closing(opened(ledger)) as outbox:
        row = {"scope": 1, "tail": b"", "accepted_ms": 0, "seen_ms": 0}
        rows = [{**row, "prospect_id": f"{number:0100}"} for number in range(500)]
        with outbox.database.write() as connection:
            connection.execute(sa.insert(receipts), rows)
    content = bytearray(outbox_path(ledger).read_bytes())
    for at in range(0, len(content), 4096):
        if content[at : at + 4096].count(b"0" * 90) > 3:
            content[at : at + 64] = os.urandom(64)
    outbox_path(ledger).write_bytes(content)


def test_damage_found_during_a_push_names_the_same_way_out(ledger: Database):
    """It opens, and fails at a page that is read later: `--new-ledger` sees that as well."""
    damage_receipts(ledger)
    for _ in range(2):
        with (
            closing(opened(ledger)) as outbox,
            pytest.raises(OutboxLost, match="is damaged.*--new-ledger"),
            outbox.database.read() as connection,
        ):
            connection.execute(sa.select(receipts)).all()
    with closing(opened(ledger, new_ledger=True)) as outbox:
        assert (outbox.look_first_ms, outbox.started_now) == (UNTIL_MS, True)
        with outbox.database.read() as connection:
            assert connection.execute(sa.select(receipts)).all() == []


@pytest.mark.parametrize("lost", ["neither", "ledger"])
def test_a_folder_or_another_file_in_its_place_is_a_lost_outbox(tmp_path: Path, lost: str):
    """Also where the ledger is new and remembers none: a pull continues without."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(Database(url)) as ledger:
        pushed(ledger)
        path = outbox_path(ledger)
    for be_wrong, words in ((be_damaged, "is damaged"), (be_a_folder, "is a folder")):
        be_wrong(path)
        if lost == "ledger":
            vanish(tmp_path / "ledger.db")
        with closing(Database(url)) as ledger:
            with pytest.raises(OutboxLost, match=f"{words}.*--new-ledger"):
                pushed(ledger)
            with closing(opened(ledger, new_ledger=True)) as outbox:
                assert outbox.started_now
    assert len(list(tmp_path.glob("ledger-outbox.lost-*.db"))) == 2, "both are kept"


def test_an_outbox_that_another_push_makes_smaller_is_none_that_was_lost(ledger: Database):
    """A push of another account ends while this one runs, and erases what SQLite has left of the
    rows that it sent."""
    with closing(opened(ledger)) as own, closing(opened(ledger)) as other:
        rows = [
            {"scope": 1, "prospect_id": f"p{number}", "tail": b"t" * 500, "accepted_ms": 1,
             "seen_ms": 1}
            for number in range(500)
        ]  # fmt: skip
        with other.database.write() as connection:
            connection.execute(sa.insert(receipts), rows)
        other.database.scrub()
        with own.database.write() as connection:
            connection.execute(sa.delete(receipts))
        before = outbox_path(ledger).stat().st_size
        other.database.scrub()
        assert outbox_path(ledger).stat().st_size < before
        with own.database.write() as connection:
            connection.execute(sa.insert(receipts), rows[:1])
        assert rows_seen_by_another_process(outbox_path(ledger), "outbox_receipts") == 1
        with own.database.write() as connection:
            connection.execute(sa.insert(receipts), rows[1:2])
        assert rows_seen_by_another_process(outbox_path(ledger), "outbox_receipts") == 2


def test_with_a_healthy_outbox_a_new_one_is_not_started(ledger: Database):
    """The flag may be left in a cron line."""
    with closing(opened(ledger, new_ledger=True)) as outbox:
        assert (outbox.look_first_ms, outbox.started_now) == (0, False)
    assert not list(outbox_path(ledger).parent.glob("*.lost-*"))


def test_in_a_ledger_that_is_new_itself_a_new_outbox_looks_first(tmp_path: Path):
    """As after a state directory was deleted: it can't know what was sent, once it is asked to."""
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        with closing(opened(ledger)) as outbox:  # a pull makes it, too
            assert outbox.look_first_ms == 0
        with closing(opened(ledger, new_ledger=True)) as outbox:
            assert outbox.look_first_ms == UNTIL_MS


@pytest.mark.parametrize("loss", ["vanished", "emptied", "replaced", "cut"])
def test_each_write_asks_for_the_proof(ledger: Database, tmp_path: Path, loss: str):
    """SQLite itself would keep writing into a file that has no name any more."""
    path = outbox_path(ledger)
    with closing(opened(ledger)) as outbox:
        with outbox.database.write():
            pass
        if loss == "vanished":
            vanish(path)
        elif loss == "replaced":
            shutil.copy(path, tmp_path / "copy.db")
            (tmp_path / "copy.db").replace(path)
        else:
            os.truncate(path, 0 if loss == "emptied" else path.stat().st_size // 2)
        with pytest.raises(OutboxLost), outbox.database.write():
            pytest.fail("began to write")


@pytest.mark.parametrize("drop", ["DROP TABLE outbox_salts", "DELETE FROM outbox_salts"])
def test_each_write_asks_for_the_proof_on_postgresql(postgres_url: str, drop: str):
    """Tables that are dropped or emptied while a push runs."""
    with closing(Database(postgres_url)) as ledger:
        pushed(ledger)
        with closing(opened(ledger)) as outbox:
            with outbox.database.write():
                pass
            with ledger.write() as connection:
                connection.execute(sa.text(drop))
            with pytest.raises(OutboxLost), outbox.database.write():
                pytest.fail("began to write")
        with pytest.raises(OutboxLost):
            opened(ledger)
        with closing(opened(ledger, new_ledger=True)) as outbox:
            assert outbox.look_first_ms == UNTIL_MS
        with closing(opened(ledger)):
            pass


@pytest.mark.parametrize("loss", ["vanished", "emptied"])
def test_a_budget_that_was_lost_takes_its_outbox_back(tmp_path: Path, loss: str):
    """The key keeps its number, under which everything was noted."""
    path = tmp_path / "ledger.db"
    with closing(Database(f"sqlite:///{path}")) as ledger:
        pushed(ledger)
        before = key_id("key", ledger)
    LOSSES[loss][0](path)  # the outbox' name begins otherwise, and stays
    with closing(Database(f"sqlite:///{path}")) as again:
        assert key_id("key", again) == before
        with closing(opened(again)) as outbox:
            assert not outbox.knows_nothing
            count_push(again, outbox.database)
        with closing(opened(again)):
            pass


def test_a_ledger_of_an_earlier_version_is_paired_at_its_first_use(tmp_path: Path):
    """Neither half of it has heard of the other."""
    from connector.upsert.outbox.outbox_schema import MIGRATIONS

    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        key_id("key", ledger)
        with closing(Database(ledger.url, suffix="-outbox")) as former:
            former.migrate("outbox", MIGRATIONS)
        pushed(ledger)
        vanish(outbox_path(ledger))
        with pytest.raises(OutboxLost):
            opened(ledger)
