"""A served sandbox and a client that knows its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from connector.sandbox import Sandbox, SandboxOptions

Serve = Callable[..., tuple[Sandbox, httpx.Client]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(**options) → a running sandbox, and a client whose base URL and key are its own."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[Sandbox, httpx.Client]:
            sandbox = stack.enter_context(Sandbox(SandboxOptions(**options)))
            key = {"Authorization": f"Bearer {sandbox.api_key}"}
            client = httpx.Client(base_url=sandbox.url, headers=key, timeout=500, verify=False)
            return sandbox, stack.enter_context(client)

        yield start


def items(client: httpx.Client, resource: str, **params: Any) -> list[Any]:
    """Every row of a list in the newest revision, page by page."""
    rows: list[Any] = []
    while True:
        page = client.get(f"/{resource}", params=params).raise_for_status().json()
        rows += page["items"]
        token = page["pagination"].get("nextPageToken")
        if token is None:
            return rows
        params = {**params, "pageToken": token}
