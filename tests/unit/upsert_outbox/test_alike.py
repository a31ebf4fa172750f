"""Rows that are as HiringCenter has their person: decided at a glance, as everything is decided."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
import sqlalchemy as sa

from connector.settings import Settings
from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.outbox_schema import (
    MIGRATIONS,
    entries,
    entry_contacts,
    insert_new,
    results,
    salts,
)
from pipelines.push.pulled_prospects import CopiedProspects, open_pulled
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import CopiedPeople, hire

EMAILS = (
    "ada@x.org", "ADA@X.org", "bob@x.org", "office@x.org", "\u212aim@x.org", "kim@x.org",
    "stra\xdfe@x.org", " ada@x.org", None,
)  # fmt: skip
PHONES = (
    "+14155550101", "4155550101", "(415) 555-0101", "+442075550101", "+14155550102",
    "0014155550102", "5550102", "\u0661\u0662\u0663", "+1\u06614155550101", "none", "", None,
)  # fmt: skip
TITLES = ("Agent", " Agent", "agent", "", None, "1")
LABELS = ('["A", "B"]', '["A","B"]', '["B","A"]', "[]", "A,B", None)
SAID_PHONES = (*PHONES[:7], "+14155550103")


def people(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    for number in range(60):
        gone = "2026-01-01" if chance.random() < 0.1 else None
        yield (
            f"p{number}", chance.choice(("Ada", "Bob")), "King", chance.choice(EMAILS),
            chance.choice(PHONES), chance.choice(TITLES), chance.choice(LABELS), 7, gone,
        )  # fmt: skip
    for number in range(60, 75):  # an office
        yield (
            f"p{number}",
            "Ada",
            "King",
            "office@x.org",
            f"+1415777{number:04}",
            "Agent",
            None,
            7,
            None,
        )
    for number in range(75, 90):  # people who resemble no one
        email, phone = f"p{number}@x.org", f"+1415888{number:04}"
        yield f"p{number}", "Ada", "King", email, phone, "Agent", '["A","B"]', 7, None


def rows(chance: random.Random, known: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """What rows may say: of a person who is there, as they are or with another cell."""
    for _, first, last, email, phone, title, labels, years, _ in known:
        says = {"firstName": first, "lastName": last, "title": title, "update": True}
        says |= {
            "email": email,
            "phone": phone,
            "company": years if chance.random() < 0.1 else None,
        }
        says["labels"] = orjson.loads(labels) if labels and labels[0] == "[" else None
        for name, values in (("email", EMAILS), ("phone", SAID_PHONES), ("title", TITLES)):
            if chance.random() < 0.15:
                says[name] = chance.choice(values)
        yield {
            name: value
            for name, value in says.items()
            if value is not None or (name == "title" and chance.random() < 0.2)
        }


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Sequence[tuple[Any, ...]]], Any]:
    def open_copy(known: Sequence[tuple[Any, ...]], hidden: Sequence[str]) -> Any:
        path = tmp_path / "data.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute(
                "CREATE SCHEMA hiringcenter; CREATE TABLE hiringcenter.prospects (id VARCHAR, "
                "first_name VARCHAR, last_name VARCHAR, email VARCHAR, phone VARCHAR, title "
                "VARCHAR, labels JSON, company BIGINT, _hc_deleted_at TIMESTAMPTZ, "
                "updated_at TIMESTAMPTZ DEFAULT TIMESTAMPTZ '2026-01-02 03:04:05.678Z')"
            )
            sql = "INSERT INTO hiringcenter.prospects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, DEFAULT)"
            labels = [(*each[:6], _json_text(each[6]), *each[7:]) for each in known]
            connection.executemany(sql, labels)
        settings = Settings(
            api_key="k" * 20,
            state_dir=tmp_path,
            duckdb_path=path,
            pull={"hash_key": "k" * 32, "prospects": {"hash_columns": hidden}},
        )
        return open_pulled(settings)

    return open_copy


def _json_text(labels: str | None) -> str | None:
    return f'"{labels}"' if labels == "A,B" else labels


@pytest.mark.parametrize("hidden", [[], ["email"], ["phone"], ["email", "phone"]])
def test_the_copy_takes_no_row_for_alike_that_isnt(copied: Callable[..., Any], hidden: list[str]):
    """DuckDB says nothing, or what a comparison in Python says: of all spellings of contacts, of
    shared and missing ones, of deleted people, of cells that aren't text."""
    chance = random.Random(7)
    known = list(people(chance))
    said = [each for _ in range(4) for each in rows(chance, known)]
    said += [{name: value for name, value in each.items() if name not in hidden} for each in said]
    with copied(known, hidden) as pulled:
        assert isinstance(pulled, CopiedProspects)
        glanced, compared = pulled.alike(said), Pulled.alike(pulled, said)
    ids = {position: each.id for position, each in glanced.items()}
    assert ids.items() <= {position: each.id for position, each in compared.items()}.items()
    assert {each.updated_at_ms for each in glanced.values()} <= {1_767_323_045_678}
    plain = [position for position, says in enumerate(said) if _is_plain(says)]
    assert len(plain) > 10
    assert set(plain) <= ids.keys() or hidden
    assert bool(ids) is (len(hidden) < 2)
    assert len(said) - len(compared) > 10


def _is_plain(says: Mapping[str, Any]) -> bool:
    """A row of the last fifteen people, as the copy has them."""
    number = str(says.get("email", ""))[1:3]
    return says == {
        "firstName": "Ada", "lastName": "King", "title": "Agent", "update": True,
        "email": f"p{number}@x.org", "phone": f"+141588800{number}", "labels": ["A", "B"],
    }  # fmt: skip


class LookingClosely(CopiedPeople):
    """A copy that takes no row for alike, so that each is merged."""

    def alike(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, PulledProspect]:
        return {}


STORED = (
    sa.select(*(each for each in entries.c if each.name != "seen_ms")).order_by(
        *entries.primary_key
    ),
    sa.select(entry_contacts).order_by(*entry_contacts.c),
    sa.select(results.c.run_id, results.c.row_number, results.c.status, results.c.prospect_id,
              results.c.message, results.c.kept_fields).order_by(*results.primary_key),
)  # fmt: skip


def test_what_is_seen_at_a_glance_is_decided_as_by_a_merge(tmp_path: Path, postgres_url: str):
    """Pushes of changing files, with and without the glance: the same requests, outcomes, entries
    and contacts, whatever rows share, whatever was edited, by two sources; on PostgreSQL, too."""
    worlds = (
        (CopiedPeople, f"sqlite:///{tmp_path / 'glanced.db'}"),
        (LookingClosely, f"sqlite:///{tmp_path / 'merged.db'}"),
        (CopiedPeople, postgres_url),
    )
    stored = []
    for kind, url in worlds:
        chance, api = random.Random(11), FakeApi(FakeClock())
        for number in range(12):
            hire(api, f"p{number}", email=f"p{number}@x.org", phone=f"+1415555{number:04}",
                 labels=["A"])  # fmt: skip
        rig = Rig(url, api, api.clock)  # type: ignore[arg-type]
        rig.database.migrate("outbox", MIGRATIONS)
        with rig.database.write() as connection:  # the same hashes in both
            insert_new(connection, salts, [{"name": "outbox", "value": bytes(32)}])
        said = [
            {name: api.prospects[f"p{number}"][name] for name in ("firstName", "email", "title")}
            | {"phone": f"+1415555{number:04}", "lastName": "King"}
            for number in range(10)
        ]
        for push in range(8):
            for row in chance.sample(said, 2):
                row["title"] = chance.choice(("Agent", "Broker", " Agent"))
            shared = {**chance.choice(said), "phone": chance.choice(said)["phone"]}
            asked = [dict(row) for row in [*said[: 8 + push % 3], *[shared] * (push % 3 == 2)]]
            api.clock.advance(1_000)
            api.edit(f"p{chance.randrange(12)}", title=chance.choice(("Agent", "Broker")))
            rig.pulled = kind(api)
            api.clock.advance(1)
            rig.push(asked, source=f"file {push % 2}", dry_run=push == 5)
        with rig.database.read() as connection:
            found = [connection.execute(query).fetchall() for query in STORED]
        rig.close()
        stored.append([found, [each.payload for each in api.applied], api.posts])
    assert stored[0] == stored[1] == stored[2]
    assert len(stored[0][0][0]) >= 18
