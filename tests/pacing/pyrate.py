"""The yardstick: the same work paced by pyrate-limiter's bucket for several processes."""

from __future__ import annotations

import http.client
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from pyrate_limiter import Limiter, Rate
from pyrate_limiter.buckets.mp_bucket import MultiprocessBucket

from tests.pacing.runs import Outcome, outcome, ready
from tests.pacing.worker import Done, Work, send_all


def _run_one(bucket: MultiprocessBucket, work: Work, result: Connection) -> None:
    limiter = Limiter(bucket)

    def pace(send: Callable[[], http.client.HTTPResponse]) -> int:
        limiter.try_acquire("key")
        return send().status

    result.send("ready")
    result.recv()
    time.sleep(work.late_s)
    result.send(send_all(work, pace))


def run(works: Sequence[Work], port: int, go: Callable[[], object] = ready) -> Outcome:
    """All workers at once, to their ends; like `runs.run`."""
    context = multiprocessing.get_context("spawn")
    rates = [Rate(limit, int(length_s * 1000)) for limit, length_s in works[0].windows]
    bucket = MultiprocessBucket(rates, context.Manager().list(), context.RLock())
    ends: list[Connection] = []
    for work in works:
        here, there = context.Pipe()
        context.Process(target=_run_one, args=(bucket, work, there), daemon=True).start()
        ends.append(here)
    for end in ends:
        end.recv()
    go()
    for end in ends:
        end.send("go")
    done: list[Done] = [end.recv() for end in ends]
    return outcome(port, done)
