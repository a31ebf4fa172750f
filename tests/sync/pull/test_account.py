"""The `account` table: whose data this is, in any shape of GET /auth, and never a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from connector import logs
from connector.errors import OtherAccount
from connector.sandbox import Sandbox, SandboxOptions
from pipelines.destination.destination import Destination
from pipelines.pull.drain import drain
from pipelines.pull.forgetting import ForgetRequest, forget
from pipelines.pull.run_tables import ACCOUNT_TABLE, Owner, account_batch
from pipelines.pull.verification import VerifyRequest, verify
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls
from tests.sync.pull.following import followed

KEY = "hc_live_0123456789abcdef"


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=20, notes=10, tasks=8, meetings=6)
    with first_pulls.sandbox(options) as running:
        yield running


def landed(puller: Puller) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        return connection.execute(
            "SELECT id, active, permissions FROM hiringcenter.account"
        ).fetchall()


def test_each_pull_refreshes_it(puller: Puller):
    """Bare or under `item`; a revoked permission is removed by the next pull. The key is in no
    column of it."""
    options = puller.sandbox.options
    puller.pull_ok("meetings")
    ((account_id, active, permissions),) = landed(puller)
    assert (account_id, active) == (options.account_id, True)
    assert json.loads(permissions) == list(options.permissions)
    options.permissions, options.auth_under_item = ("meetings:read",), True
    puller.pull_ok("meetings")
    ((account_id, active, permissions),) = landed(puller)
    assert (account_id, active) == (options.account_id, True)
    assert json.loads(permissions) == ["meetings:read"]
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        rows = connection.execute("SELECT * FROM hiringcenter.account").fetchall()
    assert puller.sandbox.api_key not in repr(rows)


def test_an_account_id_that_isnt_valid_unicode_lands(puller: Puller):
    """With a lone surrogate, which the destination can't hold: replaced, like anywhere else."""
    puller.sandbox.options.account_id = "acc\ud800"
    puller.pull_ok("meetings")
    ((account_id, *_),) = landed(puller)
    assert account_id == "acc\N{REPLACEMENT CHARACTER}"


# --- another account's rows -----------------------------------------------------------------------


@pytest.fixture(params=["noted", "upgraded"])
def pulled(request: pytest.FixtureRequest, puller: Puller) -> Puller:
    """A list has landed; `upgraded`: by a version that didn't note whose it is."""
    puller.lists = ("notes",)
    puller.pulled()
    if request.param == "upgraded":
        with Destination(puller.settings) as destination:
            destination.loader.save_states({ACCOUNT_TABLE: {}})
    return puller


def test_another_accounts_rows_are_left_alone(pulled: Puller):
    """The key of another account, or the same key at another API: refused after one request, with
    both ids and the ways out. It would have flagged all rows deleted."""
    sandbox, before = pulled.sandbox, pulled.landed()
    sandbox.options.account_id = "acct_other"
    for note in sandbox.store.all("notes"):
        sandbox.store.delete("notes", note["id"])
    sandbox.clear_log()
    report = pulled.pull("notes", full=True)
    assert isinstance(report.error, OtherAccount)
    assert report.exit_code == 2
    for word in ("'acct_sandbox'", "'acct_other'", "HIRINGCENTER_DATASET", "--take-over"):
        assert word in str(report.error)
    assert [request.path for request in sandbox.requests] == ["/v2/auth"]
    assert pulled.landed() == before
    sandbox.options.account_id = "acct_sandbox"
    pulled.pull_ok("notes")


def test_an_account_that_takes_over_is_read_in_full(any_puller: Puller):
    """Also lists that are pulled later: nothing is left of the other account's watermarks. Then
    that account is the other one."""
    puller, store = any_puller, any_puller.sandbox.store
    puller.pulled()
    puller.sandbox.options.account_id = "acct_other"
    for name in ("notes", "meetings"):
        first, second, *_ = store.all(name)
        store.delete(name, first["id"])
        store.update(name, second["id"], {"title": "of the other account"}, touch=False)
    assert puller.pull_ok("notes", take_over=True).summary["resources"]["notes"]["complete"]
    assert puller.counts("rows_deleted") == {"notes": 1}
    puller.pull_ok("meetings")
    assert puller.counts("rows_deleted") == {"meetings": 1}
    puller.sandbox.options.account_id = "acct_sandbox"
    assert isinstance(puller.pull("notes").error, OtherAccount)


def test_a_drain_asks_whose_people_it_looks_up_where_the_api_has_moved(puller: Puller):
    """One request, and no look-up at an API of another account, where all are unknown."""
    with followed(puller) as events:
        person, *_ = events.trust()
        with Sandbox(SandboxOptions(prospects=0, account_id="acct_other")) as other:
            puller.change(base_url=other.url, api_key=SecretStr(other.api_key))
            events.name(person)
            report = drain(puller.settings)
            assert isinstance(report.error, OtherAccount)
            assert [request.path for request in other.requests] == ["/v2/auth"]
        puller.change(base_url=puller.sandbox.url, api_key=SecretStr(puller.sandbox.api_key))
        events.drain()
        events.assert_true()


def test_another_accounts_people_are_neither_compared_nor_forgotten(any_puller: Puller):
    """Refused after one request, with the ways out; with the own key again, both do their work, and
    a forget sends no request."""
    puller = any_puller
    puller.pulled()
    before, person = puller.landed(), puller.sandbox.store.all("prospects")[0]["id"]
    own = {"base_url": puller.sandbox.url, "api_key": SecretStr(puller.sandbox.api_key)}
    wanted = VerifyRequest(("meetings",), 5, max_wrong=0.9)
    with Sandbox(SandboxOptions(prospects=0, account_id="acct_other")) as other:
        puller.change(base_url=other.url, api_key=SecretStr("k-of-the-other-account"))
        other.options.api_key = "k-of-the-other-account"
        with pytest.raises(OtherAccount, match="'acct_other'.*Nothing was compared.*DATASET"):
            verify(puller.settings, wanted)
        for dry_run in (True, False):
            report = forget(puller.settings, ForgetRequest(person, dry_run=dry_run))
            assert isinstance(report.error, OtherAccount)
            assert "Nothing was removed" in str(report.error)
            assert (report.exit_code, report.removed.total()) == (2, 0)
        assert {request.path for request in other.requests} == {"/v2/auth"}
    assert puller.landed() == before
    puller.change(**own)
    puller.sandbox.clear_log()
    assert verify(puller.settings, wanted).exit_code == 0
    puller.sandbox.clear_log()
    assert forget(puller.settings, ForgetRequest(person)).people == (person,)
    assert puller.sandbox.requests == []


@pytest.mark.parametrize(
    ("landed", "now", "is_other"),
    [
        (Owner("a", "x", 1), Owner("a", "y", 2), False),
        (Owner("a", "x", 1), Owner("b", "x", 1), True),
        (Owner("a"), Owner("b", "x", 1), True),
        (Owner(None, "x", 1), Owner("b", "y", 1), False),
        (Owner(None, "x", 1), Owner(None, "x", 2), False),
        (Owner("a", "x", 1), Owner(None, "y", 1), False),
        (Owner("a", "x", 1), Owner(None, "y", 2), True),
        (Owner("a"), Owner(None, "y", 2), False),
    ],
)
def test_who_is_another(landed: Owner, now: Owner, is_other: bool):
    """Ids decide. Where the API names none, another key at another host is another account; one of
    the two alone may be a key that was rotated or a host that has moved."""
    assert landed.is_other_than(now) is is_other


def test_an_api_that_names_no_account_may_move(puller: Puller, capsys: pytest.CaptureFixture[str]):
    """The same key at another host: pulled, with a warning, once."""
    puller.sandbox.options.account_id = ""
    puller.pull_ok("meetings")
    puller.change(base_url=puller.sandbox.url.replace("127.0.0.1", "localhost"))
    puller.pull_ok("meetings")
    assert "pull.other_host" in "".join(capsys.readouterr())
    puller.pull_ok("meetings")
    assert "pull.other_host" not in "".join(capsys.readouterr())


# --- the row --------------------------------------------------------------------------------------


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
