"""Pulls that are killed at random instants until one is let live: for tests and the bench."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from tests.processes.zygote import Zygote
from tests.sync.pull.truth import all_duckdb, assert_equal_to_truth

CHUNK_PAGES = 8
SIZES = {"prospects": 300, "notes": 250, "tasks": 200, "meetings": 150}
PAGES = 15 + 13 + 10 + 8  # of 20 rows


@contextmanager
def slow_sandbox() -> Iterator[Sandbox]:
    """Pages of 20 rows, 30 ms each: a pull takes a second or two."""
    options = SandboxOptions(
        **SIZES, latency_s=0.03, max_limits=dict.fromkeys(RESOURCES, 20), token_kind="keyset"
    )
    with Sandbox(options) as running:
        yield running


@contextmanager
def pulling_from(sandbox: Sandbox, folder: Path) -> Iterator[Zygote]:
    """Starts pulls into `folder`."""
    environment = {
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "1000000/60s",
        "HIRINGCENTER_PULL__CHUNK_PAGES": str(CHUNK_PAGES),
    }
    with Zygote(folder, environment) as running:
        yield running


def kill_until_done(
    zygote: Zygote, sandbox: Sandbox, *, kills: int, seed: int, within_s: float = 2.5
) -> int:
    """Kill pulls at random instants, then let one end and compare; how many were really cut."""
    chance, cut = random.Random(seed), 0
    for _ in range(kills):
        pid = zygote.start("pull", "--full", "-q")
        time.sleep(chance.uniform(0.0, within_s))
        os.kill(pid, signal.SIGKILL)
        cut += zygote.wait() == -signal.SIGKILL
    zygote.start("pull", "--full", "-q")
    assert zygote.wait() == 0, (zygote.folder / "err").read_text()
    assert_landed(zygote, sandbox)
    return cut


def assert_landed(zygote: Zygote, sandbox: Sandbox) -> None:
    """The published file equals the API."""
    assert_equal_to_truth(sandbox, all_duckdb(zygote.folder / "data" / "hiringcenter.duckdb"))
