"""One raw server and one client for each test."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from connector.api.client import ApiClient
from tests.fake_clock import FakeClock
from tests.sync.client.raw_server import (
    Handler,
    RawServer,
)
from tests.sync.client.recording_budget import RecordingBudget

KEY = "hc_live_0123456789"


class Bench:
    """One server, one client with a fake clock for its back-offs, and a budget that records."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.clock = FakeClock()
        self.budget = RecordingBudget(self.clock)

    def serve(
        self, *handlers: Handler, tls: ssl.SSLContext | None = None, **options: Any
    ) -> ApiClient:
        self.server = self._stack.enter_context(RawServer(handlers, tls))
        return self.connect(self.server.url, **options)

    def connect(self, url: str, **options: Any) -> ApiClient:
        options = {"api_key": KEY, "budget": self.budget, "clock": self.clock, **options}
        return self._stack.enter_context(ApiClient(base_url=url, **options))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch.setenv
