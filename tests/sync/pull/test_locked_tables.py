"""An analyst's open transaction on PostgreSQL: named, and waited for in bounded turns."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
import structlog

from connector.errors import DestinationError, DestinationLocked, Interrupted
from connector.sandbox import Sandbox, SandboxOptions
from pipelines.destination.postgres import PATIENCE_S, Blocker, wait_out_locks
from tests.fake_clock import FakeClock
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls

ANALYST = Blocker(4242, "DBeaver", "ana", "2026-11-26 04:00:12", "prospects")


class Locked(DestinationError):
    """As PostgreSQL's LockNotAvailable arrives, at the end of a chain."""

    pgcode = "55P03"


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    with first_pulls.sandbox(SandboxOptions(prospects=20, notes=0, tasks=0, meetings=0)) as running:
        yield running


def test_a_signal_ends_the_wait_and_the_next_pull_lands_everything(postgres_puller: Puller):
    """A new field needs ALTER TABLE, an analyst has the table open: the log names the session, a
    SIGTERM is handled between two turns, and nothing is lost."""
    puller = postgres_puller
    puller.lists = ("prospects",)
    puller.pulled()
    puller.sandbox.store.put("prospects", {"id": "new", "firstName": "N", "shoeSize": 43})
    engine = sa.create_engine(
        sa.make_url(puller.postgres_url).set(drivername="postgresql+psycopg"),
        connect_args={"application_name": "spreadsheet"},
    )
    with engine.connect() as analyst, structlog.testing.capture_logs() as logs:
        analyst.execute(sa.text("SELECT count(*) FROM hiringcenter.prospects"))
        pid = analyst.scalar(sa.text("SELECT pg_backend_pid()"))

        def stop_once_it_is_named() -> None:
            while not any(line["event"] == "destination.locked" for line in list(logs)):
                if ended.wait(0.05):
                    return
            os.kill(os.getpid(), signal.SIGTERM)

        ended = threading.Event()
        watcher = threading.Thread(target=stop_once_it_is_named)
        watcher.start()
        try:
            report = puller.pull()
        finally:
            ended.set()
            watcher.join()
        assert isinstance(report.error, Interrupted)
        named = [line for line in logs if line["event"] == "destination.locked"]
        assert (named[0]["pid"], named[0]["application"]) == (pid, "spreadsheet")
        assert named[0]["table"] == "prospects"
        assert named[0]["user"]
        assert named[0]["since"]
        assert "SELECT" not in str(named)
    engine.dispose()
    puller.pull_ok()
    puller.assert_true()


def test_what_was_locked_is_done_once_it_is_free():
    """In bounded turns, each logged."""
    turns = iter([Locked("1"), Locked("2"), None])

    def work() -> str:
        if (error := next(turns)) is not None:
            raise error
        return "done"

    with structlog.testing.capture_logs() as logs:
        assert wait_out_locks(work, lambda: [ANALYST], clock=FakeClock()) == "done"
    assert [line["pid"] for line in logs] == [4242, 4242]


def test_a_lock_held_for_too_long_is_a_clear_error():
    """Who it is, and how to end it; exit 1, to be run again."""
    clock = FakeClock()

    def work() -> None:
        clock.sleep(2)
        raise Locked

    with pytest.raises(DestinationLocked) as failure:
        wait_out_locks(work, lambda: [ANALYST], clock=clock)
    assert failure.value.exit_code == 1
    assert failure.value.waited_s == pytest.approx(PATIENCE_S)
    message = str(failure.value)
    assert "pid 4242 (DBeaver, user ana) holds prospects since 2026-11-26 04:00:12 UTC" in message
    assert "pg_terminate_backend(4242)" in message


def test_other_failures_are_not_tried_again():
    """A full disk doesn't get better by waiting."""

    def work() -> None:
        raise DestinationError("full")

    with pytest.raises(DestinationError, match="full"):
        wait_out_locks(work, list, clock=FakeClock())
