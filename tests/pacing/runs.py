"""Start a server and some workers, wait for them, and say how near to the optimum they came."""

from __future__ import annotations

import json
import multiprocessing
import os
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.pacing import exact_server, worker
from tests.pacing.worker import Done, Work

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """accepted_s: when the server counted each request. refused: 429s, as the server counts."""

    done: Sequence[Done]
    accepted_s: Sequence[float]
    refused: int

    @property
    def makespan_s(self) -> float:
        return self.accepted_s[-1] - self.accepted_s[0]


def optimum_s(requests: int, windows: Sequence[tuple[int, float]]) -> float:
    """The shortest time between the first and the last of `requests` that the windows allow."""
    at_s: list[float] = []
    for number in range(requests):
        earliest_s = [at_s[number - n] + s for n, s in windows if number >= n]
        at_s.append(max([0.0, *earliest_s]))
    return at_s[-1]


@cache
def _forks() -> Any:
    """Forks processes from one that has imported what they need: interpreters of their own would
    spend more time on imports than on work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pacing.worker", "tests.pacing.exact_server"])
    with patch.dict(os.environ, PYTHONPATH=str(_ROOT)):
        forkserver.ensure_running()
    return context


def _forked(target: Callable[..., None], *arguments: object) -> tuple[Any, Connection]:
    """A process that runs `target(end of a pipe, *arguments)`, and the other end."""
    here, there = _forks().Pipe()
    process = _forks().Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    return process, here


@contextmanager
def served(*options: str) -> Iterator[int]:
    """The port of an exact server with these options."""
    process, pipe = _forked(exact_server.serve_and_tell, options)
    try:
        yield pipe.recv()
    finally:
        process.terminate()
        process.join()


def ready() -> None:
    """Nothing more to wait for."""


class Worker:
    """A process of its own that has begun, and waits for its work."""

    def __init__(self) -> None:
        self._process, self._pipe = _forked(worker.wait_and_work)
        self._pipe.recv()

    def begin(self, work: Work) -> None:
        self._pipe.send(work)

    def finished(self) -> Done:
        """What it reports when it has ended."""
        try:
            done: Done = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a worker died") from error
        self.wait()
        return done

    def wait(self) -> None:
        self._process.join()

    def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self._process.kill()
        self.wait()


def started(work: Work) -> Worker:
    """A worker that has begun."""
    found = Worker()
    found.begin(work)
    return found


def wait_for_requests(port: int, arrived: int) -> None:
    """Return once as many requests have arrived at the server."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/after/{arrived}", timeout=300):
        pass


def outcome(port: int, done: Sequence[Done]) -> Outcome:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/log") as response:
        log = json.load(response)
    return Outcome(done, log["accepted_s"], log["refused"])


def run(works: Sequence[Work], port: int, go: Callable[[], object] = ready) -> Outcome:
    """All workers at once, to their ends. go: called when all processes have started."""
    with ExitStack() as stack:
        workers = [Worker() for _ in works]
        for each in workers:
            stack.callback(each.kill)
        go()
        for each, work in zip(workers, works, strict=True):
            each.begin(work)
        done = [each.finished() for each in workers]
    return outcome(port, done)
