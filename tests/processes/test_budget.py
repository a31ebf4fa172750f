"""Processes that share a key against a server that counts exactly: all done, no 429, no hang."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.settings import RateLimit
from tests.pacing.runs import outcome, run, served, started, wait_for_requests
from tests.pacing.worker import Work

WINDOWS = [(10, 1.0), (25, 5.0)]
SERVER = ("--windows", "10/1,25/5")


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.slow
def test_three_processes_one_of_them_late(ledger: str):
    """All 36 requests are done and none refused, though one process joins a second later."""
    with served(*SERVER) as port:
        works = [
            Work(port, ledger, WINDOWS, requests=12, threads=4, late_s=late_s)
            for late_s in (0.0, 0.0, 1.0)
        ]
        result = run(works, port)
    assert [each.done for each in result.done] == [12, 12, 12]
    assert result.refused == 0


@pytest.mark.slow
def test_eight_processes_of_eight_threads(tmp_path: Path):
    """64 threads in 8 processes, both lanes: all done, none refused."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with served("--windows", "40/1,100/5") as port:
        works = [
            Work(port, ledger, [(40, 1.0), (100, 5.0)], requests=14, lane=lane)
            for lane in ("pull", "push") * 4
        ]
        result = run(works, port)
    assert [each.done for each in result.done] == [14] * 8
    assert result.refused == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "configured"),
    [
        (("--kind", "fixed"), WINDOWS),
        (("--reset", "epoch"), WINDOWS),
        (("--reset", "none", "--kind", "fixed"), WINDOWS),
    ],
    ids=["fixed windows", "epoch resets", "no headers"],
)
def test_servers_of_every_kind(
    tmp_path: Path, server: tuple[str, ...], configured: list[tuple[int, float]]
):
    """Alone with the key, no kind of server refuses anything."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with served(*SERVER, *server) as port:
        result = run([Work(port, ledger, configured, requests=15) for _ in range(2)], port)
    assert [each.done for each in result.done] == [15, 15]
    assert result.refused == 0


@pytest.mark.slow
def test_limits_set_too_high_lose_no_request(tmp_path: Path):
    """The server allows less than half of what is configured, and says so: all are done."""
    ledger, configured = f"sqlite:///{tmp_path / 'ledger.db'}", [(25, 1.0), (60, 5.0)]
    with served(*SERVER) as port:
        result = run([Work(port, ledger, configured, requests=20) for _ in range(2)], port)
    assert [each.done for each in result.done] == [20, 20]


@pytest.mark.slow
def test_another_program_on_the_key_costs_no_request(tmp_path: Path):
    """Another program uses a third of the rate in bursts: refused requests are sent again."""
    ledger, windows = f"sqlite:///{tmp_path / 'ledger.db'}", [(20, 1.0), (60, 5.0)]
    with served("--windows", "20/1,60/5", "--foreign", "0.33") as port:
        result = run([Work(port, ledger, windows, requests=15) for _ in range(2)], port)
    assert [each.done for each in result.done] == [15, 15]


@pytest.mark.slow
def test_sigkill_at_any_instant_blocks_no_process_and_exceeds_no_limit(tmp_path: Path):
    """Four workers are killed one after another while they send; the fifth does all its work,
    and what the dead had sent still counts."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    windows = [(80, 1.0), (300, 10.0)]
    with served("--windows", "80/1,300/10") as port, ExitStack() as stack:
        killed = [started(Work(port, ledger, windows, requests=500)) for _ in range(4)]
        stays = started(Work(port, ledger, windows, requests=30))
        stack.callback(stays.kill)
        for number, worker in enumerate(killed, 1):
            wait_for_requests(port, 30 * number)
            worker.kill()
        done = stays.finished()
        result = outcome(port, [done])
    assert done.done == 30
    assert result.refused == 0


def test_permits_of_the_killed_count_and_the_rest_is_free_at_once(tmp_path: Path):
    """A process dies by SIGKILL with 4 of 10 permits out: the others get 6 without a wait."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with served("--latency-s", "60") as port:
        works = Work(port, ledger, [(10, 600.0)], requests=4, threads=4)
        database = Database(ledger)
        limits = [RateLimit(10, 600.0)]
        with RateBudget(database, api_key="key", limits=limits, request_timeout_s=10) as budget:
            budget.answered(budget.permit(Lane.PULL), 200, {})
            holder = started(works)
            wait_for_requests(port, 4)
            holder.kill()
            for _ in range(5):
                budget.permit(Lane.PULL)
            state = budget.state()
            assert (state.windows[0].used, state.windows[0].free) == (10, 0)
            assert len(state.connected) == 1
        database.close()


def test_a_thread_that_waits_in_the_kernel_dies_with_its_process(tmp_path: Path):
    """A process that waits for the ledger's file lock ends on SIGKILL like any other."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    database = Database(ledger)
    with database.write(), served() as port:
        worker = started(Work(port, ledger, [(10, 1.0)], requests=1))
        ended = threading.Event()
        threading.Thread(target=lambda: (worker.wait(), ended.set())).start()
        assert not ended.wait(1.0)
        worker.kill()
        assert ended.wait(120)
    database.close()
