"""There is one way to the API's network, and it leads past the budget."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
SENDS = {"httpx", "httpcore", "requests", "urllib3", "aiohttp", "http.client", "urllib.request"}
MAY_SEND = {
    "connector/api/transport.py",
    "pipelines/running/alerts.py",  # to the user's own webhook, never to the API
}


def _modules() -> list[tuple[str, ast.Module]]:
    paths = [*(ROOT / "connector").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    named = [(path.relative_to(ROOT).as_posix(), path) for path in sorted(paths)]
    return [
        (name, ast.parse(path.read_text()))
        for name, path in named
        if not name.startswith("connector/sandbox/")
    ]


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_the_transport_can_send():
    """No other module imports anything that speaks HTTP."""
    senders = {name for name, tree in _modules() if _imported(tree) & SENDS}
    assert senders - MAY_SEND == set()


def test_only_the_client_uses_the_transport():
    """And every call there takes a permit first: `tests/sync/client` counts them."""
    users = {
        name
        for name, tree in _modules()
        if any(each.startswith("connector.api.transport.Transport") for each in _imported(tree))
    }
    assert users == {"connector/api/client.py"}
