"""Whatever shape credentials have, and however the pull ends: nothing that is stored or shown has
them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from connector.budget.database import Database
from connector.budget.locks import take_lock
from connector.sandbox import Sandbox
from connector.settings import load
from pipelines.destination.identity import pull_lock_name
from tests.sync.commands.conftest import Ended, Run
from tests.sync.pull.conftest import dlt_credentials

SECRET = "s3cr3t-w0rd"
USER = "etl-r0bot"
_PG = "DESTINATION__POSTGRES__CREDENTIALS"
_ACCOUNT = {
    "type": "service_account", "project_id": "acme-data", "token_uri": "http://127.0.0.1:1/token",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
    "client_email": f"{USER}@acme-data.iam.gserviceaccount.com",
}  # fmt: skip

# no server listens at port 1: each of these pulls fails at its destination
SHAPES: dict[str, tuple[str, Mapping[str, str]]] = {
    "URL": ("postgres", {_PG: f"postgresql://{USER}:{SECRET}@127.0.0.1:1/sales"}),
    "password in the query": (
        "postgres", {_PG: f"postgresql://{USER}@127.0.0.1:1/sales?password={SECRET}"},
    ),
    "all in the query": (
        "postgres",
        {_PG: f"postgresql://x@127.0.0.1:1/sales?user={USER}&password={SECRET}&sslmode=disable"},
    ),
    "an @ in the password": ("postgres", {_PG: f"postgresql://{USER}:a@{SECRET}@127.0.0.1:1/s"}),
    "not a URL": ("postgres", {_PG: f"{USER} {SECRET}"}),
    "socket": (
        "postgres", {_PG: f"postgresql://{USER}:{SECRET}@localhost/sales?host=/nowhere&port=1"},
    ),
    "IPv6": ("postgres", {_PG: f"postgresql://{USER}:{SECRET}@[::1]:1/sales"}),
    "parts": (
        "postgres",
        {f"{_PG}__HOST": "127.0.0.1", f"{_PG}__PORT": "1", f"{_PG}__DATABASE": "sales",
         f"{_PG}__USERNAME": USER, f"{_PG}__PASSWORD": SECRET},
    ),
    "named": (
        "warehouse",
        {"DESTINATION__WAREHOUSE__DESTINATION_TYPE": "postgres",
         "DESTINATION__WAREHOUSE__CREDENTIALS": f"postgresql://{USER}:{SECRET}@127.0.0.1:1/sales"},
    ),
    "redshift": (
        "redshift",
        {"DESTINATION__REDSHIFT__CREDENTIALS": f"redshift://{USER}:{SECRET}@127.0.0.1:1/sales"},
    ),
    "service account": (
        "bigquery", {"DESTINATION__BIGQUERY__CREDENTIALS": json.dumps(_ACCOUNT)},
    ),
    "sorted service account": (
        "bigquery", {"DESTINATION__BIGQUERY__CREDENTIALS": json.dumps(_ACCOUNT, sort_keys=True)},
    ),
    "snowflake": (
        "snowflake",
        {"DESTINATION__SNOWFLAKE__CREDENTIALS": f"snowflake://{USER}:{SECRET}@acme/sales?role=r"},
    ),
}  # fmt: skip


def assert_silent(*ended: Ended) -> None:
    """Neither output nor any file below the test's folder has the secret or the user."""
    for each in ended:
        assert not any(word in each.out + each.err for word in (SECRET, USER))
    for path in Path.cwd().rglob("*"):
        assert not any(word in path.name for word in (SECRET, USER)), path
        if path.is_file():
            content = path.read_bytes()
            assert not any(word.encode() in content for word in (SECRET, USER)), path


@pytest.mark.parametrize("shape", SHAPES)
def test_a_failed_pull_shows_no_credentials(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, shape: str
):
    """Ledger, outbox, lock message, working folders, logs, history and report."""
    destination, environment = SHAPES[shape]
    monkeypatch.setenv("HIRINGCENTER_DESTINATION", destination)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pulled = run("pull", "-vv")
    assert pulled.code in (1, 2)
    assert_silent(pulled, run("runs"), run("report"))


def test_a_pull_that_works_shows_no_credentials(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, postgres_url: str
):
    """A pull that lands in a named destination, its history and report; and the message of one
    that finds it locked."""
    url = dlt_credentials(postgres_url).replace("unused", SECRET)
    monkeypatch.setenv("HIRINGCENTER_DESTINATION", "warehouse")
    monkeypatch.setenv("DESTINATION__WAREHOUSE__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__WAREHOUSE__CREDENTIALS", f"{url}&password={SECRET}")
    pulled = run("pull", "notes", "-vv")
    assert pulled.code == 0
    settings = load()
    with (
        closing(Database(settings.resolved_ledger_url)) as ledger,
        take_lock(ledger, pull_lock_name(settings), run_id="other"),
    ):
        refused = run("pull")
    assert refused.code == 75
    assert f"/{url.rpartition('?')[0].rpartition('/')[2]}#hiringcenter" in refused.err
    assert_silent(pulled, refused, run("runs"), run("report"), run("status"), run("check"))
