"""An HTTP server that plays the HiringCenter API v2, for tests, benches and first steps without a key.

It imports nothing else of `connector`, so that it can't share its bugs.
"""

from __future__ import annotations

from connector.sandbox.log import AppliedChange, LoggedRequest
from connector.sandbox.options import FAULT_NAMES, RESOURCES, Faults, SandboxOptions
from connector.sandbox.server import Sandbox, serve
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
    "serve",
]
