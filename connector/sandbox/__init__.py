"""An HTTP server that plays the HiringCenter API v2: for tests, benches and first steps.

It imports nothing else of `connector`, so that it can't share its bugs.
"""

from __future__ import annotations

from connector.sandbox.clock import start_of_today_ms
from connector.sandbox.fault_options import FAULT_NAMES, Faults
from connector.sandbox.log import AppliedChange, LoggedRequest
from connector.sandbox.options import RESOURCES, SandboxOptions, change_options
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
    "change_options",
    "serve",
    "start_of_today_ms",
]
