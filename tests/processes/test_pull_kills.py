"""SIGKILL at any instant of a pull loses nothing; SIGTERM ends it at a safe point."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from tests.processes.zygote import Zygote, until
from tests.sync.pull.truth import all_duckdb, assert_equal_to_truth

CHUNK_PAGES = 8
SIZES = {"prospects": 600, "notes": 500, "tasks": 400, "meetings": 300}
PAGES = sum(SIZES.values()) // 20


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Pages of 20 rows, 30 ms each: a pull takes about a second."""
    options = SandboxOptions(
        **SIZES, latency_s=0.03, max_limits=dict.fromkeys(RESOURCES, 20), token_kind="keyset"
    )
    with Sandbox(options) as running:
        yield running


@pytest.fixture
def zygote(sandbox: Sandbox, tmp_path: Path) -> Iterator[Zygote]:
    environment = {
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "1000000/60s",
        "HIRINGCENTER_PULL__CHUNK_PAGES": str(CHUNK_PAGES),
    }
    with Zygote(tmp_path, environment) as running:
        yield running


def _kill_until_done(zygote: Zygote, sandbox: Sandbox, kills: int, seed: int) -> int:
    """Kill pulls at random instants, then let one end; how many were really cut."""
    chance, cut = random.Random(seed), 0
    for _ in range(kills):
        pid = zygote.start("pull", "--full", "-q")
        time.sleep(chance.uniform(0.0, 2.5))
        os.kill(pid, signal.SIGKILL)
        cut += zygote.wait() == -signal.SIGKILL
    zygote.start("pull", "--full", "-q")
    assert zygote.wait() == 0, (zygote.folder / "err").read_text()
    assert_equal_to_truth(sandbox, all_duckdb(zygote.folder / "data" / "hiringcenter.duckdb"))
    return cut


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kills_at_random_instants_lose_nothing(zygote: Zygote, sandbox: Sandbox, seed: int):
    """Five kills, wherever they fall; the run that ends equals the API."""
    assert _kill_until_done(zygote, sandbox, kills=5, seed=seed) >= 3


@pytest.mark.slow
def test_a_kill_repeats_at_most_a_chunk(zygote: Zygote, sandbox: Sandbox):
    """The run after a kill goes on where rows were last loaded: few pages are asked for twice."""
    pid = zygote.start("pull", "-q")
    until(60, lambda: len(sandbox.requests) > PAGES // 2)
    os.kill(pid, signal.SIGKILL)
    zygote.wait()
    zygote.start("pull", "-q")
    assert zygote.wait() == 0, (zygote.folder / "err").read_text()
    asked = sum(not request.path.endswith("/auth") for request in sandbox.requests)
    assert PAGES <= asked <= PAGES + CHUNK_PAGES
    assert_equal_to_truth(sandbox, all_duckdb(zygote.folder / "data" / "hiringcenter.duckdb"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_pull_at_a_safe_point(
    zygote: Zygote, sandbox: Sandbox, number: signal.Signals, code: int
):
    """Exit 143 or 130, one JSON object, what was fetched is kept; the next run goes on."""
    pid = zygote.start("pull", "--json", "-q")
    until(60, lambda: len(sandbox.requests) > PAGES // 2)
    os.kill(pid, number)
    assert zygote.wait() == code
    summary = json.loads((zygote.folder / "out").read_text())
    assert summary["status"] == "failed"
    assert summary["error"]["type"] == "Interrupted"
    before = len(sandbox.requests)
    zygote.start("pull", "-q")
    assert zygote.wait() == 0
    assert len(sandbox.requests) - before <= PAGES - PAGES // 2 + 8
    assert_equal_to_truth(sandbox, all_duckdb(zygote.folder / "data" / "hiringcenter.duckdb"))
