"""A process that sends requests at the pace of a limiter, and reports how it went."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from connector import logs
from connector.budget import Lane, Permit
from connector.budget.database import Database
from connector.budget.policy.windows import Window  # settings take a third of the start-up
from connector.budget.scheduler import RateBudget


@dataclass(frozen=True)
class Work:
    """What one process does. late_s: how long it waits before it begins."""

    port: int
    ledger: str
    windows: list[tuple[int, float]]
    requests: int
    threads: int = 8
    late_s: float = 0.0
    lane: str = "pull"


@dataclass(frozen=True)
class Done:
    """done: accepted requests. waited_s: in all threads, for leave to send."""

    done: int
    refused: int
    waited_s: float


class Pace(Protocol):
    """send: once per try; returns the status of one request that was let through."""

    def __call__(self, send: Callable[[], http.client.HTTPResponse]) -> int: ...


def send_all(work: Work, pace: Pace) -> Done:
    """All requests of `work`, each tried again until it is accepted."""
    left, lock = iter(range(work.requests)), threading.Lock()
    counts = {200: 0, 429: 0}
    waits_s: list[float] = []

    def take() -> bool:
        with lock:
            return next(left, None) is not None

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", work.port, timeout=500)
        asked_s = 0.0

        def send() -> http.client.HTTPResponse:
            waits_s.append(time.monotonic() - asked_s)
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            return response

        while take():
            status = 0
            while status != 200:
                asked_s = time.monotonic()
                status = pace(send)
                with lock:
                    counts[status] += 1
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(work.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Done(counts[200], counts[429], sum(waits_s))


def with_budget(budget: RateBudget, lane: Lane) -> Pace:
    def pace(send: Callable[[], http.client.HTTPResponse]) -> int:
        permit: Permit = budget.permit(lane)
        response = send()
        headers = {name.lower(): value for name, value in response.getheaders()}
        budget.answered(permit, response.status, headers)
        return response.status

    return pace


def run_with_budget(work: Work) -> Done:
    """`work` paced by the rate budget."""
    limits = [Window(limit, length_s) for limit, length_s in work.windows]
    with ExitStack() as stack:
        database = Database(work.ledger)
        stack.callback(database.close)
        budget = stack.enter_context(
            RateBudget(database, api_key="key", limits=limits, request_timeout_s=10.0)
        )
        return send_all(work, with_budget(budget, Lane(work.lane)))


def wait_and_work(pipe: Connection) -> None:
    """What a process runs: it says that it is ready, gets its `Work`, and answers `Done`."""
    logs.configure(-1)
    pipe.send("ready")
    work: Work = pipe.recv()
    time.sleep(work.late_s)
    pipe.send(run_with_budget(work))
