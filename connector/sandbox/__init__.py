"""A mock of the HiringCenter API v2, served over HTTP: for tests, benches and first steps.

It imports nothing else from `connector`, so that it can't share its bugs.
"""

from __future__ import annotations

from connector.sandbox.sandbox_options import (
    FAULT_NAMES,
    RESOURCES,
    Faults,
    SandboxOptions,
    change_options,
)
from connector.sandbox.server import Sandbox, serve
from connector.sandbox.state import AppliedChange, LoggedRequest
from connector.sandbox.store import Store

__all__ = [
    "FAULT_NAMES",
    "RESOURCES",
    "AppliedChange",
    "Faults",
    "LoggedRequest",
    "Sandbox",
    "SandboxOptions",
    "Store",
    "change_options",
    "serve",
]
