"""SIGKILL at any instant of a pull loses nothing; SIGTERM ends it at a safe point."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connector.sandbox import Sandbox
from tests.processes.pull_kills import (
    CHUNK_PAGES,
    PAGES,
    PROBES,
    assert_landed,
    kill_until_done,
    pulling_from,
    slow_sandbox,
)
from tests.processes.zygote import Zygote, signalled

pytestmark = pytest.mark.slow


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with slow_sandbox() as running:
        yield running


@pytest.fixture
def zygote(sandbox: Sandbox, tmp_path: Path) -> Iterator[Zygote]:
    with pulling_from(sandbox, tmp_path) as running:
        yield running


def half_read(sandbox: Sandbox) -> Callable[[], bool]:
    """Whether half of the pages were requested."""
    return lambda: len(sandbox.requests) > PAGES // 2


def test_kills_at_random_instants_lose_nothing(zygote: Zygote, sandbox: Sandbox):
    """Three, wherever they fall; the run that ends equals the API. (A hundred: make bench.)"""
    assert kill_until_done(zygote, sandbox, kills=3, seed=1) >= 2


def test_a_kill_repeats_at_most_a_chunk(zygote: Zygote, sandbox: Sandbox):
    """The run after a kill resumes where rows were last loaded: few pages are requested twice."""
    signalled(zygote, sandbox, signal.SIGKILL, "pull", "-q", when=half_read(sandbox))
    zygote.start("pull", "-q")
    assert zygote.wait() == 0, (zygote.folder / "err").read_text()
    lists = [request for request in sandbox.requests if not request.path.endswith("/auth")]
    assert PAGES <= len(lists) <= PAGES + CHUNK_PAGES + PROBES
    assert_landed(zygote, sandbox)


def test_what_a_killed_pull_left_half_is_published_by_the_next(zygote: Zygote, sandbox: Sandbox):
    """Killed midway, then notes are forbidden: the other lists finish without them."""
    signalled(zygote, sandbox, signal.SIGKILL, "pull", "-q", when=half_read(sandbox))
    permissions = sandbox.options.permissions
    sandbox.options.permissions = tuple(set(permissions) - {"notes:read"})
    zygote.start("pull", "--json", "-q")
    assert zygote.wait() == 1
    summary = json.loads((zygote.folder / "out").read_text())
    assert summary["resources"]["tasks"]["complete"]
    assert summary["resources"]["notes"]["complete"] is False
    assert "copy" not in summary  # all that has landed is in it
    sandbox.options.permissions = permissions
    zygote.start("pull", "-q")
    assert zygote.wait() == 0
    assert_landed(zygote, sandbox)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_pull_at_a_safe_point(
    zygote: Zygote, sandbox: Sandbox, number: signal.Signals, code: int
):
    """Exit 143 or 130, one JSON object, fetched rows are kept; the next run resumes."""
    ended = signalled(zygote, sandbox, number, "pull", "--json", "-q", when=half_read(sandbox))
    assert ended == code
    summary = json.loads((zygote.folder / "out").read_text())
    assert summary["status"] == "stopped"
    assert summary["error"]["type"] == "Interrupted"
    before = len(sandbox.requests)
    zygote.start("pull", "-q")
    assert zygote.wait() == 0
    assert len(sandbox.requests) - before <= PAGES - PAGES // 2 + 8
    assert_landed(zygote, sandbox)
