"""The `account` table: whose data this is, in any shape of GET /auth, and never a secret."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from connector import logs
from pipelines.pull.run_tables import account_batch
from tests.sync.pull.conftest import Puller

KEY = "hc_live_0123456789abcdef"


def landed(puller: Puller) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        return connection.execute(
            "SELECT id, active, permissions FROM hiringcenter.account"
        ).fetchall()


@pytest.mark.parametrize("under_item", [False, True])
def test_each_pull_refreshes_it(puller: Puller, under_item: bool):
    """Bare or under `item`; a revoked permission is removed by the next pull."""
    options = puller.sandbox.options
    options.auth_under_item = under_item
    puller.pull_ok("meetings")
    ((account_id, active, permissions),) = landed(puller)
    assert (account_id, active) == (options.account_id, True)
    assert json.loads(permissions) == list(options.permissions)
    options.permissions = ("meetings:read",)
    puller.pull_ok("meetings")
    ((_, _, permissions),) = landed(puller)
    assert json.loads(permissions) == ["meetings:read"]


def test_an_account_id_that_is_no_unicode_text_lands(puller: Puller):
    """With a lone surrogate, which the destination can't hold: replaced, like anywhere else."""
    puller.sandbox.options.account_id = "acc\ud800"
    puller.pull_ok("meetings")
    ((account_id, *_),) = landed(puller)
    assert account_id == "acc\N{REPLACEMENT CHARACTER}"


def test_the_key_is_not_in_it(puller: Puller):
    """In no column of it."""
    puller.pull_ok("meetings")
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        rows = connection.execute("SELECT * FROM hiringcenter.account").fetchall()
    assert puller.sandbox.api_key not in repr(rows)


def row(**facts: Any) -> dict[str, Any]:
    (found,) = account_batch(facts).rows
    return dict(found)


@pytest.mark.parametrize(
    ("facts", "account_id", "active", "permissions"),
    [
        ({}, "unknown", None, None),
        ({"accountId": None, "active": None, "permissions": None}, "unknown", None, None),
        ({"accountId": 17, "active": "yes", "permissions": "all"}, "17", None, "all"),
        ({"accountId": "a", "active": False, "permissions": {"notes": ["read"]}}, "a", False,
         {"notes": ["read"]}),
        ({"accountId": "a\ud800b\0", "permissions": [2**70]}, "a\ufffdb\ufffd", None, [str(2**70)]),
    ],
)  # fmt: skip
def test_odd_shapes_land(
    facts: dict[str, Any], account_id: str, active: bool | None, permissions: Any
):
    """Missing, null, of another type, or more than a destination holds: a row all the same."""
    found = row(**facts)
    assert (found["id"], found["active"]) == (account_id, active)
    assert json.loads(found["permissions"]) == permissions


def test_details_hold_what_is_new_and_no_secret():
    """Not at any depth, and not under a harmless name."""
    logs.hide(KEY)
    details = json.loads(
        row(
            accountId="a",
            plan="pro",
            apiKey=KEY,
            owner={"name": "Ana", "accessToken": "x", "sessions": [{"password": "y", "n": 1}]},
            label=f"key {KEY} of Ana",
        )["details"]
    )
    assert details == {
        "plan": "pro",
        "owner": {"name": "Ana", "sessions": [{"n": 1}]},
        "label": "key *** of Ana",
    }


def test_the_same_facts_are_the_same_row():
    """So nothing is published again for it; a change is a change."""
    assert row(accountId="a", plan="pro", seats=3) == row(seats=3, accountId="a", plan="pro")
    assert row(accountId="a", seats=3) != row(accountId="a", seats=4)
