"""A PostgreSQL that hangs, as when its machine swaps: waits are bounded, and errors are clear."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg2
import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.errors import DestinationError, LedgerUnusable
from connector.sandbox import Sandbox
from pipelines.destination.destination import Destination
from pipelines.destination.postgres import AnswerTimeouts, bounded_waits
from pipelines.running.checks import ANSWER_TIMEOUTS, PATIENCE_S
from tests.sync.pull.conftest import dlt_credentials, settings_for

SHORT = AnswerTimeouts(connect_s=0.4, statement_s=0.2)


@pytest.fixture
def freeze(postgres_url: str) -> Iterator[Callable[[], None]]:
    """Stops all processes of the server until the test has ended."""
    folder = Path(str(sa.make_url(postgres_url).query["host"]))
    postmaster = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
    with ExitStack() as stack:

        def stop(process: psutil.Process) -> None:
            stack.callback(os.kill, process.pid, signal.SIGCONT)
            process.suspend()

        def stop_all() -> None:
            stop(postmaster)  # from now on no process is added, and none that ends vanishes
            for process in postmaster.children(recursive=True):
                stop(process)

        yield stop_all


def test_a_statement_on_a_frozen_server_ends(postgres_url: str, freeze: Callable[[], None]):
    """Its connection is closed, since what it was doing can't be known; a new one isn't made."""
    connection = psycopg2.connect(postgres_url)
    cursor = connection.cursor()
    freeze()
    with bounded_waits(SHORT):
        with pytest.raises(psycopg2.OperationalError, match=r"no answer within 0\.2 s"):
            cursor.execute("SELECT 1")
        assert connection.closed
        with pytest.raises(psycopg2.OperationalError, match=r"no answer within 0\.4 s"):
            psycopg2.connect(postgres_url)


def test_a_statement_that_takes_its_time_is_waited_for(postgres_url: str):
    """A busy server still answers a new client."""
    with bounded_waits(replace(SHORT, connect_s=60)):
        connection = psycopg2.connect(postgres_url)
        cursor = connection.cursor()
        cursor.execute("SELECT 7 FROM pg_sleep(0.7)")
        assert cursor.fetchone() == (7,)
        connection.close()
    connection = psycopg2.connect(postgres_url)
    with bounded_waits(AnswerTimeouts(connect_s=60, statement_s=0.1, max_s=0.3)):
        with pytest.raises(psycopg2.OperationalError, match="no answer"):
            connection.cursor().execute("SELECT pg_sleep(60)")


def test_a_frozen_destination_is_reported_as_such(
    postgres_url: str, freeze: Callable[[], None], sandbox: Sandbox, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Exit 1, and what to do; afterwards psycopg2 waits as it did before."""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(postgres_url))
    settings = settings_for(sandbox, tmp_path, destination="postgres")
    freeze()
    with pytest.raises(DestinationError, match=r"server gave no answer within 0\.4 s") as raised:
        Destination(settings, timeouts=SHORT)
    assert raised.value.exit_code == 1
    assert "hiringcenter check" in str(raised.value)
    assert psycopg2.extensions.get_wait_callback() is None
    assert ANSWER_TIMEOUTS.connect_s + ANSWER_TIMEOUTS.statement_s < PATIENCE_S < 10


def test_a_frozen_ledger_is_reported_within_what_a_check_waits(
    postgres_url: str, freeze: Callable[[], None]
):
    """To connect takes libpq two seconds at least."""
    ledger = Database(postgres_url, answer_within_s=0.3)
    is_open = False
    while not is_open:  # a slow machine may need more than that, too
        with suppress(LedgerUnusable):
            ledger.migrate("trial", [])
            is_open = True
    freeze()
    with pytest.raises(LedgerUnusable, match="doesn't answer"), ledger.read():
        pass
    ledger.close()
