"""Start a server and some workers, wait for them, and say how near to the optimum they came."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

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


@contextmanager
def served(*options: str) -> Iterator[int]:
    """The port of an exact server with these options."""
    command = [sys.executable, "-m", "tests.pacing.exact_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def ready() -> None:
    """Nothing more to wait for."""


def waiting_worker() -> subprocess.Popen[str]:
    """A worker whose interpreter has started, and that waits for its work."""
    command = [sys.executable, "-m", "tests.pacing.worker"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=_ROOT
    )


def begin(process: subprocess.Popen[str], work: Work) -> None:
    """Give a waiting worker its work."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(work)) + "\n")
    process.stdin.flush()


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a worker did not start")


def started(work: Work) -> subprocess.Popen[str]:
    """A worker that has begun."""
    process = waiting_worker()
    wait_ready(process)
    begin(process, work)
    return process


def finished(process: subprocess.Popen[str]) -> Done:
    """What the worker said when it had ended."""
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a worker exited with {process.returncode}")
    return Done(**json.loads(said))


def outcome(port: int, done: Sequence[Done]) -> Outcome:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/log") as response:
        log = json.load(response)
    return Outcome(done, log["accepted_s"], log["refused"])


def run(works: Sequence[Work], port: int, go: Callable[[], object] = ready) -> Outcome:
    """All workers at once, to their ends. go: called when all interpreters have started."""
    with ExitStack() as stack:
        processes = [stack.enter_context(waiting_worker()) for _ in works]
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            wait_ready(process)
        go()
        for process, work in zip(processes, works, strict=True):
            begin(process, work)
        done = [finished(process) for process in processes]
    return outcome(port, done)
